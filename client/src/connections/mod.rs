//! Connections: who may add whom to groups, and the groups of two users in which they came about.
//!
//! What a client is about with a peer is a row of the state database. Each step is durable before
//! the next one begins, and can be taken again: a process that dies in between, or an answer that
//! is lost, leaves a row with which upkeep goes on.

mod arrive;
mod go_on;
mod state;

use std::time::Duration;

use moh_messages::client_api::{
    self, BlockTarget, Boolean, ClientRequestBody, ClientResponseBody, DeclineConnection,
    ListBlocks, ListConnections, MAX_LISTED, SetBlock,
};
use moh_messages::{GroupId, ProviderName, UserId};

use crate::client::Client;
use crate::error::Error;
use crate::events::DisconnectReason;
use crate::store::{ConnectionRow, Step, TO_CONSENT, TO_TELL, TO_UPDATE};

pub(crate) use go_on::has_done;
pub(crate) use state::{
    after_join, end, is_of_two, is_over, is_refused, leave_off, withdraw_later,
};

/// How many pages of blocks are read, at most.
const MAX_PAGES: usize = 1000;

/// A connection between this client's user and another one, as far as this client knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The other user.
    pub peer: UserId,
    /// How far it is.
    pub state: ConnectionState,
    /// Its group. None where this client knows that there is a connection, and not of its group.
    pub group: Option<GroupId>,
    /// When it came into this state, in milliseconds since the Unix epoch.
    pub since_ms: u64,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// This client's user has asked.
    Sent,
    /// The peer has asked.
    Received,
    /// One has asked, and the other has accepted.
    Connected,
}

impl Client {
    /// Asks a user to be connected: creates a group of the two, at this client's provider, and
    /// invites them there. They may add this client's user to groups from then on. When they
    /// accept, there is [`Event::Connected`](crate::Event::Connected); messages can be written
    /// before that.
    ///
    /// Where the user has asked first, this is to [`accept`](Self::accept); where they have been
    /// asked already, or are connected, it changes nothing. When both ask at the same time there
    /// is one connection in the end, and its group is that of the user with the smaller name.
    ///
    /// # Errors
    /// See [`Error`]. After [`Error::Unsettled`] what is left to do is done later, with the same
    /// event or, if it fails, with [`Event::Disconnected`](crate::Event::Disconnected).
    pub async fn connect(&self, peer: &UserId) -> Result<GroupId, Error> {
        if peer == self.user_id() {
            return Err(Error::OwnUser(peer.clone()));
        }
        let _guard = self.lock_connections().await;
        let mut row = self.connection(peer).await?;
        if row.as_ref().is_some_and(|row| row.step == Step::Ending) {
            self.withdraw(peer).await?;
            row = self.connection(peer).await?;
        }
        match row.map(|row| row.step) {
            None => self.ask_anew(peer).await?,
            Some(Step::Received) => return self.accept_request(peer).await,
            Some(_) => self.go_on(peer, None).await?,
        }
        // Who asked at the same time, and is to stay, has been accepted.
        self.go_on(peer, None).await?;
        let row = self.connection(peer).await?;
        row.and_then(|row| row.group)
            .ok_or_else(|| Error::NoSuchUser(peer.clone()))
    }

    /// Accepts what a user asked: joins the connection group, tells them by a change there, and
    /// lets them add this client's user to groups. So do the user's other devices.
    ///
    /// # Errors
    /// See [`Error`]. After [`Error::Unsettled`] what is left to do is done later. It is
    /// [`Error::NoRequest`] where the user has taken back what they asked.
    pub async fn accept(&self, peer: &UserId) -> Result<GroupId, Error> {
        let _guard = self.lock_connections().await;
        self.accept_request(peer).await
    }

    async fn accept_request(&self, peer: &UserId) -> Result<GroupId, Error> {
        let (this, user) = (self.clone(), peer.clone());
        let is_there = self
            .store()
            .run(move |tx| {
                let Some(row) = tx.connection(&user)? else {
                    return Ok(false);
                };
                match row.step {
                    Step::Received => {
                        let todo = TO_UPDATE | TO_CONSENT;
                        let is_there = this.begin_to_accept(tx, row.clone(), todo)?;
                        if !is_there {
                            state::end(tx, row, DisconnectReason::Ended, this.api().now_ms())?;
                        }
                        Ok(is_there)
                    }
                    Step::Accepting | Step::Connected => Ok(true),
                    Step::Asking | Step::Sent | Step::Ending => Ok::<_, Error>(false),
                }
            })
            .await?;
        if !is_there {
            return Err(Error::NoRequest(peer.clone()));
        }
        self.go_on(peer, None).await?;
        let row = self.connection(peer).await?;
        row.filter(|row| row.step == Step::Connected)
            .and_then(|row| row.group)
            .ok_or_else(|| Error::NoRequest(peer.clone()))
    }

    /// Declines what a user asked. They are not told at once. Changes nothing where there is no
    /// such request.
    ///
    /// # Errors
    /// When the provider refuses, there is no answer, or the state database cannot be used. It is
    /// [`Error::AlreadyConnected`] where the request was accepted.
    pub async fn decline(&self, peer: &UserId) -> Result<(), Error> {
        let _guard = self.lock_connections().await;
        if let Some(row) = self.connection(peer).await?
            && matches!(row.step, Step::Accepting | Step::Connected)
        {
            return Err(Error::AlreadyConnected(peer.clone()));
        }
        let decline = DeclineConnection { peer: peer.clone() };
        self.api()
            .call_for_ok(ClientRequestBody::DeclineConnection(decline))
            .await?;
        let (user, now_ms) = (peer.clone(), self.api().now_ms());
        self.store()
            .run(move |tx| match tx.connection(&user)? {
                Some(row) if row.step == Step::Received => {
                    state::let_go(tx, &row, now_ms)?;
                    Ok(tx.delete_connection(&user)?)
                }
                _ => Ok::<_, Error>(()),
            })
            .await
    }

    /// Ends a connection, or takes back what was asked: deletes the group for both, and lets the
    /// peer add this client's user to groups no more.
    ///
    /// # Errors
    /// See [`Error`]. Whatever the error, it is stored here that the connection is over, and what
    /// is left to do is done later.
    pub async fn disconnect(&self, peer: &UserId) -> Result<(), Error> {
        let _guard = self.lock_connections().await;
        let (user, now_ms) = (peer.clone(), self.api().now_ms());
        let group = self
            .store()
            .run(move |tx| {
                let row = tx.connection(&user)?;
                if let Some(row) = &row {
                    state::let_go(tx, row, now_ms)?;
                }
                let ending = ConnectionRow::new(user, Step::Ending, now_ms, None);
                tx.put_connection(&ending)?;
                Ok::<_, Error>(row.and_then(|row| row.group))
            })
            .await?;
        self.withdraw(peer).await?;
        match group {
            Some(group) => self.end_connection_group(&group).await,
            None => Ok(()),
        }
    }

    /// The connections of this client's user, and the requests for such, by the name of the
    /// peer. It is what this client knows: nothing is asked.
    ///
    /// # Errors
    /// When the state database cannot be used.
    pub async fn connections(&self) -> Result<Vec<Connection>, Error> {
        let rows = self
            .store()
            .run(|tx| Ok::<_, Error>(tx.connections()?))
            .await?;
        let shown = rows.into_iter().filter_map(|row| {
            let state = match row.step {
                Step::Asking | Step::Sent => ConnectionState::Sent,
                Step::Accepting if !row.has_to(TO_TELL) => ConnectionState::Connected,
                Step::Received | Step::Accepting => ConnectionState::Received,
                Step::Connected => ConnectionState::Connected,
                Step::Ending => return None,
            };
            Some(Connection {
                peer: row.peer,
                state,
                group: row.group,
                since_ms: row.since_ms,
            })
        });
        Ok(shown.collect())
    }

    /// Blocks a user: what they ask is thrown away, and they see no difference from somebody who
    /// does not answer. A connection with them is over, as by [`disconnect`](Self::disconnect).
    ///
    /// # Errors
    /// When the provider refuses, there is no answer, or the state database cannot be used.
    pub async fn block_user(&self, user: &UserId) -> Result<(), Error> {
        self.block(BlockTarget::User(user.clone())).await
    }

    /// Blocks no longer. A connection does not come back by that.
    ///
    /// # Errors
    /// When the provider refuses, or there is no answer.
    pub async fn unblock_user(&self, user: &UserId) -> Result<(), Error> {
        self.set_block(BlockTarget::User(user.clone()), false).await
    }

    /// Blocks all users of a provider.
    ///
    /// # Errors
    /// When the provider refuses, there is no answer, or the state database cannot be used.
    pub async fn block_provider(&self, provider: &ProviderName) -> Result<(), Error> {
        self.block(BlockTarget::Provider(provider.clone())).await
    }

    /// Blocks no longer. Connections do not come back by that.
    ///
    /// # Errors
    /// When the provider refuses, or there is no answer.
    pub async fn unblock_provider(&self, provider: &ProviderName) -> Result<(), Error> {
        self.set_block(BlockTarget::Provider(provider.clone()), false)
            .await
    }

    /// Who is blocked, users by name and then providers by name.
    ///
    /// # Errors
    /// When the provider refuses, or there is no answer.
    pub async fn blocks(&self) -> Result<Vec<BlockTarget>, Error> {
        let mut all: Vec<BlockTarget> = Vec::new();
        for _ in 0..MAX_PAGES {
            let list = ListBlocks {
                after: all.last().cloned(),
            };
            let request = ClientRequestBody::ListBlocks(list);
            match self.api().call(request, Duration::ZERO).await? {
                ClientResponseBody::Blocks { blocks } => {
                    let is_last = blocks.len() < MAX_LISTED;
                    all.extend(blocks);
                    if is_last {
                        break;
                    }
                }
                _ => return Err(self.api().bad_answer("no list of blocks")),
            }
        }
        Ok(all)
    }

    /// The connections that the provider knows of.
    pub(crate) async fn connections_at_provider(
        &self,
    ) -> Result<Vec<client_api::Connection>, Error> {
        let mut all: Vec<client_api::Connection> = Vec::new();
        for _ in 0..MAX_PAGES {
            let list = ListConnections {
                after: all.last().map(|connection| connection.peer.clone()),
            };
            let request = ClientRequestBody::ListConnections(list);
            match self.api().call(request, Duration::ZERO).await? {
                ClientResponseBody::Connections { connections } => {
                    let is_last = connections.len() < MAX_LISTED;
                    all.extend(connections);
                    if is_last {
                        break;
                    }
                }
                _ => return Err(self.api().bad_answer("no list of connections")),
            }
        }
        Ok(all)
    }

    async fn set_block(&self, target: BlockTarget, blocked: bool) -> Result<(), Error> {
        let blocked = if blocked {
            Boolean::True
        } else {
            Boolean::False
        };
        self.api()
            .call_for_ok(ClientRequestBody::SetBlock(SetBlock { target, blocked }))
            .await
    }

    /// The provider withdraws consents, and declines what was asked; what is here follows.
    async fn block(&self, target: BlockTarget) -> Result<(), Error> {
        let _guard = self.lock_connections().await;
        self.set_block(target.clone(), true).await?;
        let now_ms = self.api().now_ms();
        let groups = self
            .store()
            .run(move |tx| {
                let mut groups = Vec::new();
                for row in tx.connections()? {
                    let is_meant = match &target {
                        BlockTarget::User(user) => row.peer == *user,
                        BlockTarget::Provider(provider) => row.peer.provider() == *provider,
                    };
                    if is_meant {
                        state::let_go(tx, &row, now_ms)?;
                        tx.delete_connection(&row.peer)?;
                        groups.extend(row.group);
                    }
                }
                Ok::<_, Error>(groups)
            })
            .await?;
        for group in groups {
            self.end_connection_group(&group).await?;
        }
        Ok(())
    }
}
