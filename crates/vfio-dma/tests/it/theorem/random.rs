// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random operations with random faults, in a world that is too large to explore.

use kvm_slots::convert::{Home, PageState};
use vfio_dma::SimIommuKind::{Iommufd, Type1};

use super::tape::{Fault, Faults};
use super::world::{Op, Setup, What, World};

/// What happened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Steps {
    pub(crate) steps: usize,
    pub(crate) calls: usize,
}

/// A generator of numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end
    }

    fn index(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap();
        usize::try_from(self.below(end)).unwrap()
    }

    fn faults(&mut self) -> Faults {
        let mut panics = false;
        let mut at = 0;
        let mut faults = Faults::new();
        for _ in 0..self.below(5).saturating_sub(1) {
            at += self.index(8);
            let fault = match self.below(4) {
                0 if !panics => Fault::PanicsBefore,
                1 if !panics => Fault::PanicsAfter,
                _ => Fault::Fails,
            };
            panics |= fault != Fault::Fails;
            faults.push((at, fault));
            at += 1;
        }
        faults
    }

    fn op(&mut self, setup: &Setup) -> Op {
        let page = self.below(setup.window);
        let count = 1 + self.below(setup.window - page);
        match self.below(20) {
            0 => Op::Attach(self.index(setup.devices.len())),
            1 => Op::Detach(self.index(setup.devices.len())),
            2 => Op::Revoke(page, count),
            3..=8 => {
                let somewhere = self.below(4) > 0;
                Op::Place(self.index(setup.regions.len()), somewhere.then_some(page))
            }
            9..=13 => Op::Convert(page, count, PageState::Private),
            // Only RAM without holes can become private, so fewer pages.
            14..=16 => Op::Convert(page, count.min(2), PageState::Private),
            _ => Op::Convert(page, count, PageState::Shared),
        }
    }
}

/// Runs a world for some steps. `Err` names the seed.
pub(crate) fn run(home: Home, seed: u64, steps: usize) -> Result<Steps, String> {
    let setup = Setup {
        home,
        window: 12,
        regions: vec![
            What::Split(4),
            What::InPlace(4),
            What::Plain(2),
            What::PrivateMmio(2),
            What::Bar(1),
        ],
        devices: vec![
            (Iommufd, 1, 1),
            (Type1, 2, 1),
            (Iommufd, 4, 1),
            (Type1, 1, 4),
        ],
    };
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut world = World::new(&setup);
    let mut done = Steps::default();
    for step in 0..steps {
        let op = random.op(&setup);
        let faults = random.faults();
        if !world.is_possible(op) {
            continue;
        }
        let (_, calls) = world.run(op, &faults).map_err(|broken| {
            format!("{broken}\n  by {op:?} with {faults:?}, step {step} of seed {seed}")
        })?;
        done.steps += 1;
        done.calls += calls.len();
    }
    Ok(done)
}
