// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Answering exits: the view says which region was meant, the region's handle
//! says who answers.

use kvm_slots::Vm;
use kvm_slots::exit::MmioHandler;
use memory_model::{AddrRange, FlatRange, Kind};

use crate::board::Board;
use crate::device::Effect;
use crate::exit::{Answer, Exit};
use crate::handle::Handle;

impl<V: Vm + Clone + Send + Sync + 'static> MmioHandler for Board<V> {
    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) {
        let mut rest = data;
        let mut at = gpa;
        while !rest.is_empty() {
            let (run, len) = self.at(at, rest.len());
            let (now, later) = rest.split_at_mut(len);
            let by = self.answer_read(run.as_ref(), at, now);
            self.log(at, len, false, by);
            at = at.wrapping_add(len as u64);
            rest = later;
        }
    }

    fn mmio_write(&mut self, gpa: u64, data: &[u8]) {
        let mut rest = data;
        let mut at = gpa;
        while !rest.is_empty() {
            let (run, len) = self.at(at, rest.len());
            let (now, later) = rest.split_at(len);
            let by = self.answer_write(run.as_ref(), at, now);
            self.log(at, len, true, by);
            at = at.wrapping_add(len as u64);
            rest = later;
        }
    }
}

impl<V: Vm + Clone + Send + Sync + 'static> Board<V> {
    /// Which run is at `gpa`, and how many of `size` bytes lie in it, or in
    /// the same hole.
    fn at(&self, gpa: u64, size: usize) -> (Option<FlatRange<Handle>>, usize) {
        let view = self.model.view(self.space);
        let run = view.find(gpa);
        let last = match run {
            Some(run) => run.range().last(),
            None => {
                let above = AddrRange::from_bounds(gpa, u64::MAX);
                let next = above.and_then(|above| view.intersecting(above).next());
                next.map_or(u64::MAX, |next| next.range().start() - 1)
            }
        };
        let left = usize::try_from(last - gpa)
            .unwrap_or(usize::MAX)
            .saturating_add(1);
        (run.cloned(), size.min(left))
    }

    fn log(&mut self, gpa: u64, size: usize, write: bool, by: Answer) {
        self.exits.push(Exit {
            gpa,
            size,
            write,
            by,
        });
    }

    fn answer_read(
        &mut self,
        run: Option<&FlatRange<Handle>>,
        gpa: u64,
        data: &mut [u8],
    ) -> Answer {
        // What nobody drives reads as ones, as on a bus.
        data.fill(0xff);
        let Some((run, offset)) = run.and_then(|run| Some((run, run.offset_of(gpa)?))) else {
            return Answer::Unassigned;
        };
        let handle = run.region().handle();
        if let Some(why) = handle.refused {
            return Answer::Refused(why);
        }
        match (run.region().kind(), &handle.host) {
            (Kind::Mmio | Kind::RomDevice(_), _) if !run.access().reads_directly() => {
                self.device(handle, |device| device.read(offset, data))
            }
            (Kind::Reservation, _) => Answer::Reserved,
            (_, Some(host)) if host.read(offset, data).is_ok() => Answer::Memory,
            _ => Answer::NoHostAddress,
        }
    }

    fn answer_write(&mut self, run: Option<&FlatRange<Handle>>, gpa: u64, data: &[u8]) -> Answer {
        let Some((run, offset)) = run.and_then(|run| Some((run, run.offset_of(gpa)?))) else {
            return Answer::Unassigned;
        };
        let handle = run.region().handle();
        if let Some(why) = handle.refused {
            return Answer::Refused(why);
        }
        match (run.region().kind(), &handle.host) {
            (Kind::Mmio | Kind::RomDevice(_), _) => {
                let mut effect = Effect::None;
                let answer = self.device(handle, |device| effect = device.write(offset, data));
                self.take_effect(run, offset, data, effect)
                    .unwrap_or(answer)
            }
            (Kind::Reservation, _) => Answer::Reserved,
            _ if !run.access().writes_directly() => Answer::DroppedRomWrite,
            (_, Some(host)) if host.write(offset, data).is_ok() => Answer::Memory,
            _ => Answer::NoHostAddress,
        }
    }

    fn device(
        &mut self,
        handle: &Handle,
        access: impl FnOnce(&mut crate::device::Device),
    ) -> Answer {
        match handle
            .device
            .and_then(|number| self.devices.get_mut(number))
        {
            Some(device) => {
                access(device);
                Answer::Device
            }
            None => Answer::Unassigned,
        }
    }

    /// Does what a device's write leads to, after the device is done with it.
    fn take_effect(
        &mut self,
        run: &FlatRange<Handle>,
        offset: u64,
        data: &[u8],
        effect: Effect,
    ) -> Option<Answer> {
        let direct = match effect {
            Effect::None => return None,
            Effect::DirectReads(on) => on,
            Effect::Program => {
                let host = run.region().handle().host.as_ref()?;
                if let Err(error) = host.write(offset, data) {
                    return Some(Answer::EffectFailed(error.to_string()));
                }
                true
            }
        };
        let mut transaction = self.model.transaction();
        if let Err(error) = transaction.set_direct_reads(run.id(), direct) {
            return Some(Answer::EffectFailed(error.to_string()));
        }
        let error = transaction.commit().err()?;
        Some(Answer::EffectFailed(error.to_string()))
    }
}
