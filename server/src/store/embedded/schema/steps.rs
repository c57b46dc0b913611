//! The tables, as they came about: those of the first released version, and the steps from each
//! version to the next. A new file is made by the same steps that an old one is brought up to
//! date by, so that the two are the same.
//!
//! What has been released is not edited any more; a change is a further step.

use rusqlite::{Connection, params};

use crate::change::{outbox_lane, queue_digest};
use crate::group::queue_of_key_package;
use crate::store::StoreError;

/// The version of [`TABLES`]; what is older was never released, and cannot be read.
pub(super) const FIRST_RELEASED_VERSION: i64 = 2;

/// What leads from one version to the next.
pub(super) struct Step {
    pub(super) sql: &'static [&'static str],
    /// What cannot be said in SQL.
    pub(super) then: fn(&Connection) -> Result<(), StoreError>,
}

/// From each version to the next, the first from [`FIRST_RELEASED_VERSION`].
pub(super) const STEPS: [Step; 3] = [
    Step {
        sql: &[ACCOUNTS_AND_KEY_PACKAGES, DELIVERIES_AND_CONNECTIONS],
        then: open_queues_of_last_resorts,
    },
    Step {
        sql: &[NONCES],
        then: |_| Ok(()),
    },
    Step {
        sql: &[LANES_AND_TOTALS],
        then: give_lanes,
    },
];

pub(super) const TABLES: &str = "
-- Groups: a snapshot and the log after it.
CREATE TABLE groups (
    number INTEGER PRIMARY KEY,
    group_id BLOB NOT NULL UNIQUE,
    version INTEGER NOT NULL,
    -- When it has to be looked after; none: never.
    due_at INTEGER,
    -- Whether nothing is left of it but its name.
    forgotten INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX groups_by_due_time ON groups (due_at) WHERE due_at IS NOT NULL;
CREATE TABLE group_snapshots (
    group_number INTEGER NOT NULL,
    version INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    bytes BLOB NOT NULL,
    UNIQUE (group_number, version)
);
CREATE TABLE group_log (
    group_number INTEGER NOT NULL,
    version INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    bytes BLOB NOT NULL,
    UNIQUE (group_number, version)
);
-- The groups of a client.
CREATE TABLE group_members (
    client TEXT NOT NULL,
    group_number INTEGER NOT NULL,
    PRIMARY KEY (client, group_number)
) WITHOUT ROWID;
CREATE INDEX group_members_by_group ON group_members (group_number);
-- Clients that are to be removed, not before a time.
CREATE TABLE wanted_removals (
    group_number INTEGER NOT NULL,
    client TEXT NOT NULL,
    wanted_at INTEGER NOT NULL,
    PRIMARY KEY (group_number, client)
) WITHOUT ROWID;
CREATE INDEX wanted_removals_by_time ON wanted_removals (wanted_at, group_number);
-- Who may have an answer again is a key or a provider.
CREATE TABLE answers (
    group_id BLOB NOT NULL,
    message_hash BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    accepted_at INTEGER NOT NULL,
    signature_key BLOB,
    provider TEXT,
    PRIMARY KEY (group_id, message_hash)
) WITHOUT ROWID;
CREATE INDEX answers_by_epoch ON answers (group_id, epoch);

-- Queues: an audience, who is in it, and its messages.
CREATE TABLE audiences (
    id INTEGER PRIMARY KEY,
    sender TEXT NOT NULL,
    digest BLOB NOT NULL,
    -- The newest of its messages, 0 when it never had one.
    last_sequence INTEGER NOT NULL DEFAULT 0,
    -- When it was last written to, 0 when that is not known.
    used_at INTEGER NOT NULL DEFAULT 0,
    UNIQUE (sender, digest)
);
CREATE INDEX audiences_by_last_sequence ON audiences (last_sequence);
-- All members by position, one a line, an empty line where there is none.
CREATE TABLE audience_lists (
    audience INTEGER PRIMARY KEY,
    clients TEXT NOT NULL
);
CREATE TABLE audience_members (
    client TEXT NOT NULL,
    audience INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (client, audience, position)
) WITHOUT ROWID;
CREATE TABLE messages (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    audience INTEGER NOT NULL,
    except_position INTEGER,
    received_at INTEGER NOT NULL,
    payload BLOB NOT NULL
);
CREATE INDEX messages_by_audience ON messages (audience, sequence, except_position);
CREATE INDEX messages_by_time ON messages (received_at);
CREATE TABLE acknowledged (
    client TEXT PRIMARY KEY,
    sequence INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE delivered (
    sender TEXT NOT NULL,
    delivery_id BLOB NOT NULL,
    received_at INTEGER NOT NULL,
    result BLOB NOT NULL,
    PRIMARY KEY (sender, delivery_id)
) WITHOUT ROWID;
CREATE INDEX delivered_by_time ON delivered (received_at);

-- Deliveries to other providers.
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    destination TEXT NOT NULL,
    group_id BLOB NOT NULL,
    delivery_id BLOB NOT NULL,
    digest BLOB NOT NULL,
    except_position INTEGER,
    created_at INTEGER NOT NULL,
    set_aside_reason TEXT,
    payload BLOB NOT NULL
);
CREATE INDEX outbox_waiting ON outbox (destination, id) WHERE set_aside_reason IS NULL;
CREATE INDEX outbox_by_digest ON outbox (digest);
CREATE TABLE outbox_audiences (
    digest BLOB PRIMARY KEY,
    recipients BLOB NOT NULL
);
-- When it was last written to, 0 when that is not known. Apart, as recipients can be large.
CREATE TABLE outbox_audience_uses (
    digest BLOB PRIMARY KEY,
    used_at INTEGER NOT NULL
) WITHOUT ROWID;

-- Our own users.
CREATE TABLE clients (
    client_id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    scheme INTEGER NOT NULL,
    signature_key BLOB NOT NULL,
    registered_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX clients_by_user ON clients (user_id, client_id);
CREATE TABLE key_packages (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    reference BLOB NOT NULL UNIQUE,
    client_id TEXT NOT NULL,
    cipher_suite INTEGER NOT NULL,
    last_resort INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    bytes BLOB NOT NULL
);
CREATE INDEX key_packages_by_client
    ON key_packages (client_id, last_resort, number, cipher_suite, expires_at);
CREATE INDEX key_packages_by_expiry ON key_packages (expires_at);
CREATE TABLE consents (
    user_id TEXT NOT NULL,
    peer TEXT NOT NULL,
    PRIMARY KEY (user_id, peer)
) WITHOUT ROWID;
";

/// To version 3: accounts and KeyPackages.
const ACCOUNTS_AND_KEY_PACKAGES: &str = "
-- Names of clients and users that were deleted: they are not given again.
CREATE TABLE deleted_names (
    name TEXT PRIMARY KEY,
    deleted_at INTEGER NOT NULL
) WITHOUT ROWID;
-- Invitations that were used, until they would have expired.
CREATE TABLE used_invitations (
    invitation BLOB PRIMARY KEY,
    expires_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX used_invitations_by_expiry ON used_invitations (expires_at);
-- Two pools of KeyPackages: for groups, and for connection groups.
ALTER TABLE key_packages ADD COLUMN for_connections INTEGER NOT NULL DEFAULT 0;
DROP INDEX key_packages_by_client;
CREATE INDEX key_packages_by_pool ON key_packages
    (client_id, for_connections, last_resort, number, cipher_suite, expires_at);
-- All that were ever uploaded, until they expire.
CREATE TABLE known_key_packages (
    reference BLOB PRIMARY KEY,
    client_id TEXT NOT NULL,
    last_resort INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX known_key_packages_by_client ON known_key_packages (client_id, last_resort);
CREATE INDEX known_key_packages_by_expiry ON known_key_packages (expires_at);
INSERT INTO known_key_packages (reference, client_id, last_resort, expires_at)
    SELECT reference, client_id, last_resort, expires_at FROM key_packages;
-- Pools of which the client was told that there is little left.
CREATE TABLE low_pools (
    client_id TEXT NOT NULL,
    for_connections INTEGER NOT NULL,
    PRIMARY KEY (client_id, for_connections)
) WITHOUT ROWID;
";

/// To version 3: deliveries and connections.
const DELIVERIES_AND_CONNECTIONS: &str = "
-- Queues by SHA-256 of their sealed names, and who may deliver to them; none: everybody.
CREATE TABLE queue_bindings (
    queue BLOB PRIMARY KEY,
    client TEXT NOT NULL,
    sender TEXT,
    -- 0: open, 1: closed, 2: open, and what is delivered is thrown away.
    state INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX queue_bindings_by_client ON queue_bindings (client);
-- The queues of KeyPackages, and to whom each was handed out.
CREATE TABLE key_package_queues (
    queue BLOB PRIMARY KEY,
    reference BLOB NOT NULL,
    client TEXT NOT NULL,
    user_id TEXT NOT NULL,
    peer TEXT,
    for_connections INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX key_package_queues_by_reference ON key_package_queues (reference);
CREATE INDEX key_package_queues_by_peer ON key_package_queues (user_id, peer);
CREATE INDEX key_package_queues_by_client ON key_package_queues (client);
CREATE INDEX key_package_queues_by_expiry ON key_package_queues (expires_at);
-- Other providers that may have a client of ours in their groups.
CREATE TABLE client_peers (
    client TEXT NOT NULL,
    provider TEXT NOT NULL,
    PRIMARY KEY (client, provider)
) WITHOUT ROWID;
INSERT INTO client_peers (client, provider)
    SELECT DISTINCT m.client, a.sender
    FROM audience_members m JOIN audiences a ON a.id = m.audience
    WHERE substr(m.client, 1, length(a.sender) + 8) <> 'mimi://' || a.sender || '/';
-- Audiences are said anew once, so that the queues in them are bound to whoever names them.
UPDATE audiences SET digest = CAST('said ' || id AS BLOB);
-- Whom the destination is told to be gone; then there is no delivery.
ALTER TABLE outbox ADD COLUMN deleted_client TEXT;
-- Our own users and their peers. state 0: the peer has asked, 1: the peer may fetch KeyPackages.
CREATE TABLE connections (
    user_id TEXT NOT NULL,
    peer TEXT NOT NULL,
    state INTEGER NOT NULL,
    since INTEGER NOT NULL,
    -- How often the peer has asked, and nothing was decided.
    requests INTEGER NOT NULL,
    PRIMARY KEY (user_id, peer)
) WITHOUT ROWID;
CREATE INDEX connections_asked ON connections (user_id) WHERE state = 0;
-- The queues of what peers have asked for.
CREATE TABLE connection_queues (
    user_id TEXT NOT NULL,
    peer TEXT NOT NULL,
    queue BLOB NOT NULL,
    -- The audience of the request.
    sender TEXT NOT NULL,
    audience BLOB NOT NULL,
    PRIMARY KEY (user_id, peer, queue)
) WITHOUT ROWID;
INSERT INTO connections (user_id, peer, state, since, requests)
    SELECT user_id, peer, 1, 0, 0 FROM consents;
DROP TABLE consents;
-- kind 0: a user, 1: a provider.
CREATE TABLE blocks (
    user_id TEXT NOT NULL,
    kind INTEGER NOT NULL,
    target TEXT NOT NULL,
    PRIMARY KEY (user_id, kind, target)
) WITHOUT ROWID;
";

/// To version 4: requests that are not taken twice.
const NONCES: &str = "
CREATE TABLE nonces (
    who TEXT NOT NULL,
    nonce BLOB NOT NULL,
    until INTEGER NOT NULL,
    PRIMARY KEY (who, nonce)
) WITHOUT ROWID;
CREATE INDEX nonces_by_time ON nonces (until);
";

/// To version 3: the queues of KeyPackages of last resort are for everybody.
fn open_queues_of_last_resorts(connection: &Connection) -> Result<(), StoreError> {
    let mut last_resorts =
        connection.prepare("SELECT client_id, bytes FROM key_packages WHERE last_resort")?;
    let mut rows = last_resorts.query([])?;
    while let Some(row) = rows.next()? {
        let (client, bytes): (String, Vec<u8>) = (row.get(0)?, row.get(1)?);
        let Some(queue) = queue_of_key_package(&bytes) else {
            continue;
        };
        connection.execute(
            "INSERT INTO queue_bindings (queue, client, sender, state) VALUES (?1, ?2, NULL, 0)
             ON CONFLICT DO NOTHING",
            params![queue_digest(&queue), client],
        )?;
    }
    Ok(())
}

/// To version 5: the outbox has lanes, and totals that are kept by triggers, so that no write can
/// forget them; what is set aside has a table of its own, and is numbered in that order.
const LANES_AND_TOTALS: &str = "
CREATE TABLE outbox_set_aside (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    destination TEXT NOT NULL,
    lane INTEGER NOT NULL,
    group_id BLOB NOT NULL,
    delivery_id BLOB NOT NULL,
    digest BLOB NOT NULL,
    except_position INTEGER,
    created_at INTEGER NOT NULL,
    set_aside_at INTEGER NOT NULL,
    -- 0: the delivery was refused, 1: the request was, 2: expired, 3: too much waited, 4: unreadable.
    ending INTEGER NOT NULL,
    reason TEXT NOT NULL,
    -- 0: a message, 1: a request to connect, 2: a client is gone.
    kind INTEGER NOT NULL,
    -- Of the payload, also where that is given up.
    bytes INTEGER NOT NULL,
    -- None where it is given up.
    payload BLOB,
    deleted_client TEXT
);
INSERT INTO outbox_set_aside
        (destination, lane, group_id, delivery_id, digest, except_position, created_at,
         set_aside_at, ending, reason, kind, bytes, payload, deleted_client)
    SELECT destination, 0, group_id, delivery_id, digest, except_position, created_at, created_at,
        CASE set_aside_reason WHEN 'expired' THEN 2 ELSE 0 END, set_aside_reason,
        CASE WHEN deleted_client IS NOT NULL THEN 2 WHEN substr(payload, 1, 1) = X'01' THEN 1
            ELSE 0 END,
        length(payload), payload, deleted_client
    FROM outbox WHERE set_aside_reason IS NOT NULL ORDER BY id;
DELETE FROM outbox WHERE set_aside_reason IS NOT NULL;
CREATE INDEX outbox_set_aside_by_destination ON outbox_set_aside (destination, id);
CREATE INDEX outbox_set_aside_kept ON outbox_set_aside (destination, id)
    WHERE payload IS NOT NULL;
CREATE INDEX outbox_set_aside_by_digest ON outbox_set_aside (digest) WHERE payload IS NOT NULL;
CREATE INDEX outbox_set_aside_by_time ON outbox_set_aside (set_aside_at);
DROP INDEX outbox_waiting;
ALTER TABLE outbox DROP COLUMN set_aside_reason;
ALTER TABLE outbox ADD COLUMN lane INTEGER NOT NULL DEFAULT 0;
CREATE INDEX outbox_waiting ON outbox (destination, lane, id);
CREATE TABLE outbox_totals (
    destination TEXT PRIMARY KEY,
    waiting INTEGER NOT NULL,
    waiting_bytes INTEGER NOT NULL,
    set_aside INTEGER NOT NULL,
    -- Of the payloads that are kept.
    set_aside_bytes INTEGER NOT NULL,
    -- Records that were removed before their time, as there were too many.
    forgotten INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
INSERT INTO outbox_totals (destination, waiting, waiting_bytes, set_aside, set_aside_bytes)
    SELECT destination, sum(waiting), sum(waiting_bytes), sum(set_aside), sum(set_aside_bytes)
    FROM (SELECT destination, 1 AS waiting, length(payload) AS waiting_bytes, 0 AS set_aside,
              0 AS set_aside_bytes FROM outbox
          UNION ALL
          SELECT destination, 0, 0, 1, length(payload) FROM outbox_set_aside)
    GROUP BY destination;
CREATE TRIGGER outbox_waits AFTER INSERT ON outbox BEGIN
    INSERT INTO outbox_totals (destination, waiting, waiting_bytes, set_aside, set_aside_bytes)
        VALUES (NEW.destination, 1, length(NEW.payload), 0, 0)
        ON CONFLICT DO UPDATE SET waiting = waiting + 1,
            waiting_bytes = waiting_bytes + excluded.waiting_bytes;
END;
CREATE TRIGGER outbox_waits_no_longer AFTER DELETE ON outbox BEGIN
    UPDATE outbox_totals
        SET waiting = waiting - 1, waiting_bytes = waiting_bytes - length(OLD.payload)
        WHERE destination = OLD.destination;
    DELETE FROM outbox_totals
        WHERE destination = OLD.destination AND waiting = 0 AND set_aside = 0;
END;
CREATE TRIGGER outbox_is_set_aside AFTER INSERT ON outbox_set_aside BEGIN
    INSERT INTO outbox_totals (destination, waiting, waiting_bytes, set_aside, set_aside_bytes)
        VALUES (NEW.destination, 0, 0, 1, coalesce(length(NEW.payload), 0))
        ON CONFLICT DO UPDATE SET set_aside = set_aside + 1,
            set_aside_bytes = set_aside_bytes + excluded.set_aside_bytes;
END;
CREATE TRIGGER outbox_payload_is_given_up AFTER UPDATE OF payload ON outbox_set_aside BEGIN
    UPDATE outbox_totals SET set_aside_bytes = set_aside_bytes
            - coalesce(length(OLD.payload), 0) + coalesce(length(NEW.payload), 0)
        WHERE destination = NEW.destination;
END;
CREATE TRIGGER outbox_is_not_set_aside AFTER DELETE ON outbox_set_aside BEGIN
    UPDATE outbox_totals SET set_aside = set_aside - 1,
            set_aside_bytes = set_aside_bytes - coalesce(length(OLD.payload), 0)
        WHERE destination = OLD.destination;
    DELETE FROM outbox_totals
        WHERE destination = OLD.destination AND waiting = 0 AND set_aside = 0;
END;
";

/// To version 5: what is in the outbox is given its lanes.
fn give_lanes(connection: &Connection) -> Result<(), StoreError> {
    for table in ["outbox", "outbox_set_aside"] {
        let mut rows =
            connection.prepare(&format!("SELECT id, group_id, deleted_client FROM {table}"))?;
        let mut give =
            connection.prepare(&format!("UPDATE {table} SET lane = ?2 WHERE id = ?1"))?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let (id, group, client): (i64, Vec<u8>, Option<String>) =
                (row.get(0)?, row.get(1)?, row.get(2)?);
            let of = client.map_or(group, String::into_bytes);
            give.execute(params![id, outbox_lane(&of)])?;
        }
    }
    Ok(())
}
