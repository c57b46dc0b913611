//! What happened, in order: who asked whom for what, when, and what came of it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use crate::time::Time;

/// So many lines are printed where a run fails.
const TAIL: usize = 120;

/// The trace of one run. Two runs of one seed have the same.
pub(crate) struct Trace {
    time: Arc<Time>,
    prints: bool,
    state: Mutex<State>,
}

struct State {
    hash: u64,
    lines: u64,
    tail: VecDeque<String>,
}

impl Trace {
    /// Nothing yet; `prints`: each line as it comes.
    pub(crate) fn new(time: &Arc<Time>, prints: bool) -> Self {
        Self {
            time: Arc::clone(time),
            prints,
            state: Mutex::new(State {
                hash: 0xcbf2_9ce4_8422_2325,
                lines: 0,
                tail: VecDeque::new(),
            }),
        }
    }

    /// Something happened, now.
    pub(crate) fn note(&self, what: &str) {
        let at = self.time.elapsed();
        let line = format!("{:9.3} {what}", at.as_secs_f64());
        if self.prints {
            println!("{line}");
        }
        let mut state = self.state.lock().unwrap();
        for byte in line.bytes() {
            state.hash = (state.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        state.lines += 1;
        if state.tail.len() == TAIL {
            state.tail.pop_front();
        }
        state.tail.push_back(line);
    }

    /// What all of it comes down to, and how many lines it is.
    pub(crate) fn digest(&self) -> (u64, u64) {
        let state = self.state.lock().unwrap();
        (state.hash, state.lines)
    }

    /// The last lines.
    pub(crate) fn tail(&self) -> Vec<String> {
        self.state.lock().unwrap().tail.iter().cloned().collect()
    }
}
