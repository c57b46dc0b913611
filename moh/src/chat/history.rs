//! What was said, in a database of its own: the library keeps keys and what is on its way, and
//! forgets what the application has taken.

#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use moh_messages::{ClientId, GroupId};
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};
use sha2::{Digest, Sha256};

use super::content::Content;
use super::model::{
    Conversation, Kept, Line, LineBody, Model, Number, Outgoing, Sending, Standing, Write,
};

/// How many lines of each conversation are read at once.
const LINES_AT_ONCE: u32 = 200;
/// How long to wait for a chat that is about to end.
const BUSY: Duration = Duration::from_secs(2);
/// The version of the schema.
const VERSION: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE conversations (
    number INTEGER PRIMARY KEY, group_id BLOB NOT NULL UNIQUE,
    peer TEXT, name TEXT, standing INTEGER NOT NULL, read_to INTEGER NOT NULL
);
-- sender is none for what happened. sending is none for what others wrote.
CREATE TABLE lines (
    id INTEGER PRIMARY KEY, conversation INTEGER NOT NULL, at_ms INTEGER NOT NULL,
    sender TEXT, message TEXT, text TEXT NOT NULL, sending INTEGER, reason TEXT
);
CREATE INDEX lines_of_conversation ON lines (conversation, id);
CREATE INDEX lines_by_message ON lines (conversation, sender, message) WHERE message NOT NULL;
-- What is to be sent, in the order of its ids.
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY, conversation INTEGER NOT NULL, content BLOB NOT NULL
);
-- The conversation that is open, the last id, and the last event of the library.
CREATE TABLE state (
    one INTEGER PRIMARY KEY CHECK (one = 1), open INTEGER, last_id INTEGER NOT NULL, event BLOB
);
INSERT INTO state (one, last_id) VALUES (1, 0);
-- Devices of one's own that come into all groups, as long as they have these keys.
CREATE TABLE trusted (client TEXT NOT NULL, key BLOB NOT NULL, PRIMARY KEY (client, key));
";

/// The history of one client.
pub(crate) struct History {
    conn: Connection,
}

impl History {
    /// Opens it, or makes a new one, readable for its owner only.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Self::try_open(path).map_err(|error| {
            let is_busy = error
                .downcast_ref::<rusqlite::Error>()
                .and_then(rusqlite::Error::sqlite_error_code)
                == Some(rusqlite::ErrorCode::DatabaseBusy);
            let path = path.display();
            if is_busy {
                return anyhow!("a chat of this device is running already, with {path}");
            }
            error.context(format!("the history cannot be used: {path}"))
        })
    }

    fn try_open(path: &Path) -> Result<Self> {
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(path)?;
        let mut conn = Connection::open(path)?;
        conn.busy_timeout(BUSY)?;
        conn.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        conn.pragma_update(None, "journal_mode", "WAL")?;
        conn.pragma_update(None, "synchronous", "FULL")?;
        conn.pragma_update(None, "secure_delete", "ON")?;
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        match tx.query_row("PRAGMA user_version", [], |row| row.get(0))? {
            0 => tx.execute_batch(SCHEMA)?,
            VERSION => {}
            later => bail!("version {later} is later than this program's"),
        }
        tx.pragma_update(None, "user_version", VERSION)?;
        tx.commit()?;
        Ok(Self { conn })
    }

    /// All that the model begins with.
    pub(crate) fn load(&self) -> Result<Kept> {
        // Of a message that is not to be sent and has no answer, nobody knows: there is none
        // unless something went wrong.
        self.conn.execute(
            "UPDATE lines SET sending = 2, reason = 'nobody knows whether it was sent'
             WHERE sending = 0 AND id NOT IN (SELECT id FROM outbox)",
            [],
        )?;
        let (open, next_id) =
            self.conn
                .query_row("SELECT open, last_id FROM state", [], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })?;
        let mut statement = self.conn.prepare(
            "SELECT number, group_id, peer, name, standing, read_to FROM conversations
             ORDER BY number",
        )?;
        let rows = statement.query_map([], conversation)?;
        let mut conversations = Vec::new();
        for row in rows {
            let mut conversation = row??;
            let number = conversation.number;
            (conversation.lines, conversation.has_older) = self.lines(number, i64::MAX)?;
            let unread: i64 = self.conn.query_row(
                "SELECT count(*) FROM lines WHERE conversation = ?1 AND id > ?2
                 AND sender NOT NULL AND sending IS NULL",
                params![number, conversation.read_to],
                |row| row.get(0),
            )?;
            conversation.unread = usize::try_from(unread).unwrap_or(0);
            conversation.outbox = self.outbox(number)?.into();
            conversations.push(conversation);
        }
        let mut statement = self.conn.prepare("SELECT client, key FROM trusted")?;
        let rows = statement.query_map([], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?))
        })?;
        let mut trusted = Vec::new();
        for row in rows {
            let (client, key) = row?;
            trusted.push((client.parse()?, key));
        }
        Ok(Kept {
            conversations,
            open,
            next_id,
            trusted,
        })
    }

    /// The last lines before `before`, and whether there are others before them.
    pub(crate) fn lines(&self, number: Number, before: i64) -> Result<(Vec<Line>, bool)> {
        let mut statement = self.conn.prepare_cached(
            "SELECT id, at_ms, sender, message, text, sending, reason FROM lines
             WHERE conversation = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3",
        )?;
        let rows = statement.query_map(params![number, before, LINES_AT_ONCE + 1], line)?;
        let mut lines = Vec::new();
        for row in rows {
            lines.push(row??);
        }
        let at_once = usize::try_from(LINES_AT_ONCE).unwrap_or(usize::MAX);
        let has_older = lines.len() > at_once;
        lines.truncate(at_once);
        lines.reverse();
        Ok((lines, has_older))
    }

    fn outbox(&self, number: Number) -> Result<Vec<Outgoing>> {
        let mut statement = self
            .conn
            .prepare_cached("SELECT id, content FROM outbox WHERE conversation = ?1 ORDER BY id")?;
        let rows =
            statement.query_map([number], |row| Ok(Outgoing::new(row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Whether the sender's message with this content's id is there already.
    pub(crate) fn has(&self, group: &GroupId, sender: &ClientId, content: &[u8]) -> Result<bool> {
        let Some(id) = Content::decode(content).id else {
            return Ok(false);
        };
        let found = self
            .conn
            .prepare_cached(
                "SELECT 1 FROM lines JOIN conversations ON number = conversation
                 WHERE group_id = ?1 AND sender = ?2 AND message = ?3",
            )?
            .query_row(params![group.as_slice(), sender.as_str(), id], |_| Ok(()))
            .optional()?;
        Ok(found.is_some())
    }

    /// Whether this was the last event that was taken.
    pub(crate) fn was_last(&self, event: &str) -> Result<bool> {
        let last: Option<Vec<u8>> = self
            .conn
            .query_row("SELECT event FROM state", [], |row| row.get(0))?;
        Ok(last.is_some_and(|last| last == Sha256::digest(event).as_slice()))
    }

    /// Makes all of it durable, or nothing. `event` is that from which it follows.
    pub(crate) fn write(
        &mut self,
        model: &Model,
        writes: &[Write],
        event: Option<&str>,
    ) -> Result<()> {
        if writes.is_empty() && event.is_none() {
            return Ok(());
        }
        let tx = self
            .conn
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        for write in writes {
            put(&tx, model, write)?;
        }
        tx.execute(
            "UPDATE state SET last_id = max(last_id, ?1)",
            [model.last_id()],
        )?;
        if let Some(event) = event {
            let digest = Sha256::digest(event);
            tx.execute("UPDATE state SET event = ?1", [digest.as_slice()])?;
        }
        tx.commit()?;
        Ok(())
    }
}

fn put(conn: &Connection, model: &Model, write: &Write) -> Result<()> {
    match write {
        Write::Conversation(number) => {
            let Some(c) = model.conversation(*number) else {
                return Ok(());
            };
            let standing = match c.standing {
                Standing::Waiting => 0,
                Standing::In => 1,
                Standing::Leaving => 2,
                Standing::Out => 3,
            };
            let peer = c.peer.as_ref().map(|peer| peer.as_str());
            conn.prepare_cached(
                "INSERT OR REPLACE INTO conversations VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                number,
                c.group.as_slice(),
                peer,
                c.name,
                standing,
                c.read_to
            ])?;
        }
        Write::Line { number, line } => put_line(conn, *number, line)?,
        Write::Outgoing {
            number,
            id,
            content,
        } => {
            conn.prepare_cached("INSERT INTO outbox VALUES (?1, ?2, ?3)")?
                .execute(params![id, number, content])?;
        }
        Write::Gone(id) => {
            conn.prepare_cached("DELETE FROM outbox WHERE id = ?1")?
                .execute([id])?;
        }
        Write::Mark { id, sending } => {
            let (sending, reason) = sending_columns(Some(sending));
            conn.prepare_cached("UPDATE lines SET sending = ?2, reason = ?3 WHERE id = ?1")?
                .execute(params![id, sending, reason])?;
        }
        Write::Trust((client, key)) => {
            conn.prepare_cached("INSERT OR IGNORE INTO trusted VALUES (?1, ?2)")?
                .execute(params![client.as_str(), key])?;
        }
        Write::Open(number) => {
            conn.prepare_cached("UPDATE state SET open = ?1")?
                .execute([number])?;
        }
    }
    Ok(())
}

fn put_line(conn: &Connection, number: Number, line: &Line) -> Result<()> {
    let (sender, message, text, sending) = match &line.body {
        LineBody::Said {
            sender,
            message,
            text,
            sending,
        } => (
            Some(sender.as_str()),
            message.as_ref(),
            text,
            sending.as_ref(),
        ),
        LineBody::Event(text) => (None, None, text, None),
    };
    let (sending, reason) = sending_columns(sending);
    let at_ms = i64::try_from(line.at_ms).unwrap_or(i64::MAX);
    conn.prepare_cached("INSERT OR REPLACE INTO lines VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?
        .execute(params![
            line.id, number, at_ms, sender, message, text, sending, reason
        ])?;
    Ok(())
}

fn sending_columns(sending: Option<&Sending>) -> (Option<i64>, Option<&str>) {
    match sending {
        None => (None, None),
        Some(Sending::UnderWay) => (Some(0), None),
        Some(Sending::Sent) => (Some(1), None),
        Some(Sending::Failed(reason)) => (Some(2), Some(reason)),
    }
}

fn conversation(row: &Row<'_>) -> rusqlite::Result<Result<Conversation>> {
    let group: Vec<u8> = row.get(1)?;
    let peer: Option<String> = row.get(2)?;
    let standing = match row.get(4)? {
        0 => Standing::Waiting,
        1 => Standing::In,
        2 => Standing::Leaving,
        _ => Standing::Out,
    };
    let (number, name, read_to) = (row.get(0)?, row.get(3)?, row.get(5)?);
    Ok((|| {
        Ok(Conversation {
            peer: peer.map(|peer| peer.parse()).transpose()?,
            name,
            standing,
            read_to,
            ..Conversation::new(number, GroupId::new(group)?)
        })
    })())
}

fn line(row: &Row<'_>) -> rusqlite::Result<Result<Line>> {
    let at_ms: i64 = row.get(1)?;
    let sender: Option<String> = row.get(2)?;
    let text: String = row.get(4)?;
    let reason: Option<String> = row.get(6)?;
    let sending = match row.get(5)? {
        None => None,
        Some(0) => Some(Sending::UnderWay),
        Some(1) => Some(Sending::Sent),
        Some(_) => Some(Sending::Failed(reason.unwrap_or_default())),
    };
    let (id, message) = (row.get(0)?, row.get(3)?);
    Ok((|| {
        let body = match sender {
            Some(sender) => LineBody::Said {
                sender: sender.parse()?,
                message,
                text,
                sending,
            },
            None => LineBody::Event(text),
        };
        Ok(Line {
            id,
            at_ms: u64::try_from(at_ms).unwrap_or(0),
            body,
        })
    })())
}
