//! How often what was done.

use std::sync::Mutex;

/// Names, each with what it is in words.
macro_rules! kinds {
    ($(#[$doc:meta])* $name:ident { $($kind:ident = $words:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $name { $($kind,)* }

        impl $name {
            pub(crate) const ALL: &'static [(Self, &'static str)] =
                &[$((Self::$kind, $words),)*];
        }
    };
}

kinds! {
    /// What goes wrong.
    Fault {
        Delay = "messages delayed by seconds",
        DuplicateSoon = "requests that arrive twice",
        DuplicateLate = "requests that arrive again minutes later",
        CutBefore = "connections cut before the request was read",
        CutDuring = "connections cut while the request was worked on",
        CutAfter = "connections cut before the answer came",
        PartitionBoth = "partitions in both directions",
        PartitionOneWay = "partitions in one direction",
        CutOff = "clients cut off from their provider",
        Slow = "peers slow for minutes",
        Refused = "requests to a provider that was down",
        ServerErrorBefore = "5xx, and nothing was done",
        ServerErrorAfter = "5xx, although it was done",
        TooMany = "429 with Retry-After",
        ProxyPage = "pages of proxies (4xx)",
        Garbage = "answers of random bytes",
        Truncated = "answers cut short",
        WrongType = "answers of another content type",
        WrongStruct = "answers with another struct",
        Skew = "processes whose clock is wrong",
        ClockJump = "clocks that jumped",
        CrashBefore = "crashes before a commit",
        CrashAfter = "crashes after a commit, before the reply",
        Restart = "providers stopped and started in order",
        SlowDisk = "disks slow for minutes",
        ClientCrash = "clients that died and were opened again",
    }
}

kinds! {
    /// What was done.
    Deed {
        Requests = "requests between processes",
        Commits = "commits to stores of providers",
        Groups = "groups",
        Accepted = "messages, commits and proposals accepted by owners",
        Answered = "messages answered ok",
        Owed = "messages owed to queues of members",
        Delivered = "of these in the queue, once and in order",
        ToRead = "messages owed to applications of members",
        Read = "of these read, once and in order",
        Exempt = "not readable by the rules of MLS (joined again, removed)",
        Epochs = "epochs begun",
        Rejoined = "groups joined again by an external commit",
        Added = "users added",
        Removed = "users removed",
        Left = "clients that left",
        Deleted = "clients deleted",
        Connected = "connections made",
        Agreements = "members whose state agrees with the owner's in the end",
    }
}

/// Counts of everything.
#[derive(Clone, Debug)]
pub(crate) struct Counts {
    faults: Vec<u64>,
    deeds: Vec<u64>,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            faults: vec![0; Fault::ALL.len()],
            deeds: vec![0; Deed::ALL.len()],
        }
    }
}

impl Counts {
    pub(crate) fn of(&self, fault: Fault) -> u64 {
        self.faults[fault as usize]
    }

    pub(crate) fn of_deed(&self, deed: Deed) -> u64 {
        self.deeds[deed as usize]
    }

    pub(crate) fn add(&mut self, other: &Self) {
        let all = self.faults.iter_mut().zip(&other.faults);
        all.for_each(|(sum, count)| *sum += count);
        let all = self.deeds.iter_mut().zip(&other.deeds);
        all.for_each(|(sum, count)| *sum += count);
    }

    /// All faults, injected how often.
    pub(crate) fn all_faults(&self) -> u64 {
        self.faults.iter().sum()
    }
}

/// The counts of one run, while it goes on.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<Counts>);

impl Tally {
    pub(crate) fn fault(&self, fault: Fault) {
        self.0.lock().unwrap().faults[fault as usize] += 1;
    }

    pub(crate) fn deed(&self, deed: Deed) {
        self.deeds(deed, 1);
    }

    pub(crate) fn deeds(&self, deed: Deed, count: u64) {
        self.0.lock().unwrap().deeds[deed as usize] += count;
    }

    pub(crate) fn counts(&self) -> Counts {
        self.0.lock().unwrap().clone()
    }
}
