//! Between openmls's idea of storage, which is one of single values, and ours, which is a
//! snapshot: what `PublicGroup` writes is caught here as a whole, or thrown away, and what it
//! reads comes from there.

use std::cell::RefCell;
use std::convert::Infallible;

use openmls_traits::public_storage::PublicStorageProvider;
use openmls_traits::storage::{CURRENT_VERSION as V, Entity, traits};
use serde::{Deserialize, Serialize};

/// The four values that a `PublicGroup` without proposals consists of.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Values {
    tree: Vec<u8>,
    context: Vec<u8>,
    interim_transcript_hash: Vec<u8>,
    confirmation_tag: Vec<u8>,
}

/// Takes what is written, where it is wanted; gives what it was made with.
#[derive(Debug, Default)]
pub(super) struct Storage {
    catching: bool,
    values: RefCell<Values>,
}

impl Storage {
    /// Forgets what is written.
    pub(super) fn discarding() -> Self {
        Self::default()
    }

    /// Keeps what is written.
    pub(super) fn catching() -> Self {
        Self {
            catching: true,
            values: RefCell::default(),
        }
    }

    /// Gives these values.
    pub(super) fn of(values: Values) -> Self {
        Self {
            catching: false,
            values: RefCell::new(values),
        }
    }

    /// What was written.
    pub(super) fn into_values(self) -> Values {
        self.values.into_inner()
    }

    fn write<T: Entity<V>>(&self, value: &T, to: fn(&mut Values) -> &mut Vec<u8>) {
        if self.catching {
            let bytes = postcard::to_stdvec(value).expect("memory takes everything");
            *to(&mut self.values.borrow_mut()) = bytes;
        }
    }

    fn read<T: Entity<V>>(&self, of: fn(&mut Values) -> &mut Vec<u8>) -> Option<T> {
        postcard::from_bytes(of(&mut self.values.borrow_mut())).ok()
    }
}

impl PublicStorageProvider<V> for Storage {
    type PublicError = Infallible;

    fn write_tree<G: traits::GroupId<V>, T: traits::TreeSync<V>>(
        &self,
        _: &G,
        tree: &T,
    ) -> Result<(), Infallible> {
        self.write(tree, |v| &mut v.tree);
        Ok(())
    }

    fn write_interim_transcript_hash<G: traits::GroupId<V>, T: traits::InterimTranscriptHash<V>>(
        &self,
        _: &G,
        hash: &T,
    ) -> Result<(), Infallible> {
        self.write(hash, |v| &mut v.interim_transcript_hash);
        Ok(())
    }

    fn write_context<G: traits::GroupId<V>, T: traits::GroupContext<V>>(
        &self,
        _: &G,
        context: &T,
    ) -> Result<(), Infallible> {
        self.write(context, |v| &mut v.context);
        Ok(())
    }

    fn write_confirmation_tag<G: traits::GroupId<V>, T: traits::ConfirmationTag<V>>(
        &self,
        _: &G,
        tag: &T,
    ) -> Result<(), Infallible> {
        self.write(tag, |v| &mut v.confirmation_tag);
        Ok(())
    }

    fn tree<G: traits::GroupId<V>, T: traits::TreeSync<V>>(
        &self,
        _: &G,
    ) -> Result<Option<T>, Infallible> {
        Ok(self.read(|v| &mut v.tree))
    }

    fn group_context<G: traits::GroupId<V>, T: traits::GroupContext<V>>(
        &self,
        _: &G,
    ) -> Result<Option<T>, Infallible> {
        Ok(self.read(|v| &mut v.context))
    }

    fn interim_transcript_hash<G: traits::GroupId<V>, T: traits::InterimTranscriptHash<V>>(
        &self,
        _: &G,
    ) -> Result<Option<T>, Infallible> {
        Ok(self.read(|v| &mut v.interim_transcript_hash))
    }

    fn confirmation_tag<G: traits::GroupId<V>, T: traits::ConfirmationTag<V>>(
        &self,
        _: &G,
    ) -> Result<Option<T>, Infallible> {
        Ok(self.read(|v| &mut v.confirmation_tag))
    }

    // Proposals are entries of our own log; openmls keeps them in memory alone.

    fn queue_proposal<
        G: traits::GroupId<V>,
        R: traits::ProposalRef<V>,
        P: traits::QueuedProposal<V>,
    >(
        &self,
        _: &G,
        _: &R,
        _: &P,
    ) -> Result<(), Infallible> {
        Ok(())
    }

    fn queued_proposals<
        G: traits::GroupId<V>,
        R: traits::ProposalRef<V>,
        P: traits::QueuedProposal<V>,
    >(
        &self,
        _: &G,
    ) -> Result<Vec<(R, P)>, Infallible> {
        Ok(Vec::new())
    }

    fn remove_proposal<G: traits::GroupId<V>, R: traits::ProposalRef<V>>(
        &self,
        _: &G,
        _: &R,
    ) -> Result<(), Infallible> {
        Ok(())
    }

    fn clear_proposal_queue<G: traits::GroupId<V>, R: traits::ProposalRef<V>>(
        &self,
        _: &G,
    ) -> Result<(), Infallible> {
        Ok(())
    }

    // A group is deleted as a whole, by the store.

    fn delete_tree<G: traits::GroupId<V>>(&self, _: &G) -> Result<(), Infallible> {
        Ok(())
    }

    fn delete_confirmation_tag<G: traits::GroupId<V>>(&self, _: &G) -> Result<(), Infallible> {
        Ok(())
    }

    fn delete_context<G: traits::GroupId<V>>(&self, _: &G) -> Result<(), Infallible> {
        Ok(())
    }

    fn delete_interim_transcript_hash<G: traits::GroupId<V>>(
        &self,
        _: &G,
    ) -> Result<(), Infallible> {
        Ok(())
    }
}
