// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Numbers the calls of an operation, and has some of them fail or panic.

use std::panic::resume_unwind;
use std::sync::Mutex;

/// What goes wrong in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fault {
    /// The call is refused.
    Fails,
    /// It panics before it has an effect.
    PanicsBefore,
    /// It panics after its effect.
    PanicsAfter,
}

/// What a call can do other than to succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Can {
    /// A kernel does not panic.
    Fail,
    Panic,
    FailOrPanic,
}

/// A call: what it is, and what it can do.
pub(crate) type Call = (&'static str, Can);

/// The faults of an operation, by the number of the call. A second panic during the
/// rollback of the first one would abort the process, so there is at most one.
pub(crate) type Faults = Vec<(usize, Fault)>;

/// The payload of a panic that the tape causes.
pub(crate) struct Injected;

/// The calls of all platforms and listeners, in their order.
#[derive(Debug, Default)]
pub(crate) struct Tape(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    faults: Faults,
    calls: Vec<Call>,
}

impl Tape {
    /// Starts an operation.
    pub(crate) fn start(&self, faults: &Faults) {
        let mut state = self.0.lock().unwrap();
        state.faults.clone_from(faults);
        state.calls.clear();
    }

    /// The calls since the start.
    pub(crate) fn stop(&self) -> Vec<Call> {
        let mut state = self.0.lock().unwrap();
        state.faults.clear();
        std::mem::take(&mut state.calls)
    }

    /// A call that can fail as `fails` does.
    pub(crate) fn call<T>(
        &self,
        (what, can): Call,
        fails: impl FnOnce() -> T,
        works: impl FnOnce() -> T,
    ) -> T {
        match self.next(what, can) {
            None => works(),
            Some(Fault::Fails) => fails(),
            Some(Fault::PanicsBefore) => resume_unwind(Box::new(Injected)),
            Some(Fault::PanicsAfter) => {
                works();
                resume_unwind(Box::new(Injected))
            }
        }
    }

    /// A call that cannot fail, but panic.
    pub(crate) fn notice(&self, what: &'static str) {
        if self.next(what, Can::Panic).is_some() {
            resume_unwind(Box::new(Injected));
        }
    }

    fn next(&self, what: &'static str, can: Can) -> Option<Fault> {
        let mut state = self.0.lock().unwrap();
        let number = state.calls.len();
        state.calls.push((what, can));
        let fault = state.faults.iter().find(|(at, fault)| {
            let fits = match fault {
                Fault::Fails => can != Can::Panic,
                Fault::PanicsBefore => can != Can::Fail,
                Fault::PanicsAfter => can == Can::FailOrPanic,
            };
            *at == number && fits
        });
        fault.map(|(_, fault)| *fault)
    }
}

/// The faults that go further than `faults`, which led to these calls.
pub(crate) fn extended(faults: &Faults, calls: &[Call]) -> Vec<Faults> {
    let from = faults.last().map_or(0, |(at, _)| at + 1);
    let panicked = faults.iter().any(|(_, fault)| *fault != Fault::Fails);
    let mut all = Vec::new();
    for (at, (_, can)) in calls.iter().enumerate().skip(from) {
        let mut add = |fault| all.push(faults.iter().copied().chain([(at, fault)]).collect());
        if *can != Can::Panic {
            add(Fault::Fails);
        }
        if *can != Can::Fail && !panicked {
            add(Fault::PanicsBefore);
        }
        if *can == Can::FailOrPanic && !panicked {
            add(Fault::PanicsAfter);
        }
    }
    all
}
