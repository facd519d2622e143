// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Values that hold only as long as the lock under which the device attested them.

use core::fmt;

use thiserror::Error;

use crate::tdi::Tdi;
use crate::tdi::state::{InterfaceId, TdiState};

/// One lock of one TDI. Each lock of a TDI has a higher number than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Generation {
    /// The TDI.
    pub id: InterfaceId,
    /// The number of the lock, from 1.
    pub number: u64,
}

/// For example `lock 2 of TDI 0x100`.
impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lock {} of {}", self.number, self.id)
    }
}

/// A report that was fetched under a lock that is not the current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the report is from {report}, and {id} is {state} {}", Live(*.live))]
pub struct StaleReport {
    /// The lock that the report came from.
    pub report: Generation,
    /// The TDI that it was used for.
    pub id: InterfaceId,
    /// The state of that TDI.
    pub state: TdiState,
    /// The lock that is in force, if any.
    pub live: Option<Generation>,
}

/// Displays which lock is in force.
struct Live(Option<Generation>);

impl fmt::Display for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(live) => write!(f, "under {live}"),
            None => f.write_str("without a lock in force"),
        }
    }
}

/// A TDI's interface report, or a value computed from it, with the lock that it came from.
///
/// A report describes the configuration that the TDI was locked with (section 11.3.11). After a stop, an
/// error or a reset the host may change that configuration, so the report is void. Nothing but a
/// [`Ticket`](super::Ticket) creates such a value, and [`open`](Self::open) returns it only while its
/// lock is in force.
///
/// Parse, place and classify the report with [`try_map`](Self::try_map): the result stays bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attested<T> {
    generation: Generation,
    value: T,
}

impl<T> Attested<T> {
    pub(super) const fn new(generation: Generation, value: T) -> Self {
        Self { generation, value }
    }

    /// The lock.
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// A reference, bound to the same lock.
    pub const fn as_ref(&self) -> Attested<&T> {
        Attested::new(self.generation, &self.value)
    }

    /// A value computed from this one, bound to the same lock.
    pub fn map<U>(self, compute: impl FnOnce(T) -> U) -> Attested<U> {
        Attested::new(self.generation, compute(self.value))
    }

    /// As [`map`](Self::map), for a computation that can fail.
    ///
    /// # Errors
    ///
    /// Those of `compute`.
    pub fn try_map<U, E>(self, compute: impl FnOnce(T) -> Result<U, E>) -> Result<Attested<U>, E> {
        Ok(Attested::new(self.generation, compute(self.value)?))
    }

    /// The value, if its lock is in force.
    ///
    /// # Errors
    ///
    /// [`StaleReport`] if `tdi` is another TDI, was unlocked or locked again since, is in `ERROR`, was
    /// removed, or if its state is not known.
    pub fn open(&self, tdi: &Tdi) -> Result<&T, StaleReport> {
        let live = tdi.generation();
        match live == Some(self.generation) {
            true => Ok(&self.value),
            false => Err(StaleReport {
                report: self.generation,
                id: tdi.id(),
                state: tdi.state(),
                live,
            }),
        }
    }
}
