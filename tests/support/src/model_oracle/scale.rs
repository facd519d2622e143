// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The same steps in larger units than bytes.

use memory_model::AddrRange;

use super::ops::{AttachOp, New, Op, Step};

impl Step {
    /// Multiplies all sizes and addresses by the unit.
    pub fn scale(&mut self, unit: u64) {
        match self {
            Self::Change(ops, _) => ops.iter_mut().for_each(|op| op.scale(unit)),
            Self::AcceptRun(_, _, skip, count) => {
                *skip *= unit;
                *count = *count * unit - 1;
            }
            Self::Accept(_, range) | Self::GiveBack(_, range) | Self::Revoke(_, range) => {
                *range = scaled(*range, unit);
            }
            Self::Turn(_) => {}
        }
    }
}

impl Op {
    fn scale(&mut self, unit: u64) {
        match self {
            Self::Add(new) => new.scale(unit),
            Self::AddIn(new, _, at, _) => {
                new.scale(unit);
                *at = address(*at, unit);
            }
            Self::AddTwo(two, _, at, gaps) => {
                two.iter_mut().for_each(|new| new.scale(unit));
                gaps.iter_mut().for_each(|gap| *gap *= unit);
                *at = address(*at, unit);
            }
            Self::AddRow(new, _, at, stride, _) => {
                new.scale(unit);
                *at = address(*at, unit);
                *stride *= unit;
            }
            Self::AddFull(full) => {
                full.container.scale(unit);
                full.alias.iter_mut().for_each(|new| new.scale(unit));
                for (new, at) in &mut full.children {
                    new.scale(unit);
                    *at = address(*at, unit);
                }
                full.address = address(full.address, unit);
            }
            Self::Place(_, _, at, _) | Self::Move(_, at) => *at = address(*at, unit),
            Self::Attach(_, AttachOp::Event(at, ..)) => *at = address(*at, unit),
            Self::Attach(_, AttachOp::Coalesced(range)) => *range = scaled(*range, unit),
            Self::Nested(ops, _) => ops.iter_mut().for_each(|op| op.scale(unit)),
            Self::Attach(_, AttachOp::NoEvent(_) | AttachOp::NoCoalesced(_))
            | Self::Log(..)
            | Self::LogAll(_)
            | Self::Unplace(_)
            | Self::Enable(..)
            | Self::Readonly(..)
            | Self::DirectReads(..)
            | Self::Remove(_) => {}
        }
    }
}

impl New {
    fn scale(&mut self, unit: u64) {
        self.offset = address(self.offset, unit);
        self.size = match (1_u128 << 64).checked_sub(self.size) {
            Some(less) if less < 1 << 32 => (1 << 64) - less * u128::from(unit),
            _ => self.size * u128::from(unit),
        };
    }
}

fn scaled(range: AddrRange, unit: u64) -> AddrRange {
    let last = address(range.last(), unit) + (unit - 1);
    AddrRange::from_bounds(address(range.start(), unit), last).unwrap()
}

/// Counted from the nearer end of the space.
fn address(address: u64, unit: u64) -> u64 {
    match u64::MAX - address {
        from_end if from_end < 1 << 32 => u64::MAX - from_end * unit - (unit - 1),
        _ => address * unit,
    }
}
