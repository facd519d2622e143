// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! TEE device interfaces (TDIs), and the software in place of their security manager.
//!
//! [`Tdi`] plans the steps. The host's half of a mapping is a conversion of pages, and the platform's
//! half is the simulated security manager's, on the real KVM too: no TDISP interface is bound.

use std::collections::HashMap;

use kvm_slots::Vm;
use kvm_slots::convert::Request;
use memory_model::AddrRange;
use vfio_private::tdi::sim::SimTsm;
use vfio_private::tdi::{
    Attested, Event, InterfaceId, Mapping, Outcome, PrivateBytes, Progress, Step, Tdi, TdiError,
    Ticket,
};
use vfio_private::{BarIndex, BarKind, InterfaceReport, OffsetRule};

use crate::board::Board;
use crate::board::actions::ActionError;
use crate::machine::{self, Bar, Kind, Machine, TdiChange, attested_pieces, tdi_report};

/// A TDI with its security manager.
#[derive(Debug)]
pub struct TdiDevice {
    tdi: Tdi,
    tsm: SimTsm,
    bars: Vec<TdiDeviceBar>,
    /// What the latest report makes of the BARs.
    private: Option<Attested<PrivateBytes>>,
}

#[derive(Debug)]
struct TdiDeviceBar {
    index: BarIndex,
    bar: Bar,
    size: u128,
}

/// The machine's interfaces, and for each of its regions the interface that it is a BAR of.
pub(crate) fn devices(machine: &Machine) -> (Vec<TdiDevice>, Vec<Option<usize>>) {
    let mut numbers = HashMap::new();
    let mut bars: Vec<Vec<TdiDeviceBar>> = Vec::new();
    let mut of = vec![None; machine.regions.len()];
    for (region, named) in machine.tdi_bars() {
        let number = *numbers.entry(named.name.as_str()).or_insert(bars.len());
        if number == bars.len() {
            bars.push(Vec::new());
        }
        of[region] = Some(number);
        if let machine::Region {
            kind: Kind::Bar(bar),
            size,
            ..
        } = &machine.regions[region]
        {
            let (index, bar, size) = (named.bar, bar.clone(), *size);
            bars[number].push(TdiDeviceBar { index, bar, size });
        }
    }
    let devices = bars
        .into_iter()
        .zip(0_u32..)
        .map(|(bars, number)| TdiDevice {
            tdi: Tdi::new(InterfaceId(number)),
            tsm: SimTsm::new(tdi_report(bars.iter().map(|bar| (bar.index, &bar.bar)))),
            bars,
            private: None,
        });
    (devices.collect(), of)
}

impl TdiDevice {
    /// The interface.
    pub fn tdi(&self) -> &Tdi {
        &self.tdi
    }

    /// The private bytes by the latest report.
    fn private(&self, request: &'static str) -> Result<Attested<PrivateBytes>, TdiError> {
        let none = TdiError::State {
            id: self.tdi.id(),
            state: self.tdi.state(),
            request,
        };
        self.private.clone().ok_or(none)
    }

    /// Computes what a report makes of the BARs. It stays bound to its lock.
    fn read_report(&mut self, ticket: &Ticket) -> Result<(), String> {
        let report = self
            .tsm
            .take_report()
            .and_then(|report| ticket.attest(report.bytes));
        let report = report.ok_or("there is no report")?;
        let bar = |bar: &TdiDeviceBar| {
            let size = u64::try_from(bar.size).unwrap_or(u64::MAX);
            vfio_private::Bar::new(bar.index, BarKind::Memory, size)
        };
        let bars = self.bars.iter().map(bar).collect::<Result<Vec<_>, _>>();
        let bars = bars.map_err(|e| e.to_string())?;
        let report = report.try_map(|bytes| InterfaceReport::parse(&bytes));
        let report = report.map_err(|e| e.to_string())?;
        let placed = report.try_map(|report| report.place(&bars, OffsetRule::Masked));
        let placed = placed.map_err(|e| e.to_string())?;
        let private = placed.try_map(|placed| {
            let start = Ok(PrivateBytes::new());
            self.bars.iter().fold(start, |private, bar| {
                let pieces = attested_pieces(&bar.bar, bar.size, &placed)?;
                private.map(|private: PrivateBytes| private.with_bar(bar.index, &pieces))
            })
        });
        self.private = Some(private.map_err(|e: String| e)?);
        Ok(())
    }
}

impl<V: Vm + Clone + Send + Sync + 'static> Board<V> {
    /// Changes the state of the interface that a BAR belongs to.
    pub(crate) fn change_tdi(
        &mut self,
        region: usize,
        change: TdiChange,
    ) -> Result<(), ActionError> {
        let Some(number) = self.tdi_of[region] else {
            return Ok(());
        };
        let TdiDevice { tdi, tsm, .. } = &mut self.tdis[number];
        match change {
            TdiChange::Lock => tdi.lock()?,
            TdiChange::Start => {
                let private = self.tdis[number].private("start")?;
                self.tdis[number].tdi.start(&private, &[])?;
            }
            TdiChange::Stop => tdi.stop()?,
            TdiChange::Break if !tsm.state().is_locked() => {
                return Err(ActionError::Tdi(TdiError::State {
                    id: tdi.id(),
                    state: tdi.state(),
                    request: "break",
                }));
            }
            TdiChange::Break => return self.break_locked_tdi(region),
        }
        self.run_tdi(number)
    }

    /// Moves the interface that a BAR belongs to into `ERROR`, if it is locked.
    pub(crate) fn break_locked_tdi(&mut self, region: usize) -> Result<(), ActionError> {
        let Some(number) = self.tdi_of[region] else {
            return Ok(());
        };
        let TdiDevice { tdi, tsm, .. } = &mut self.tdis[number];
        if !tsm.state().is_locked() {
            return Ok(());
        }
        tsm.break_interface();
        let _ = tdi.event(Event::Error);
        self.run_tdi(number)
    }

    /// Resets the interface that a BAR belongs to.
    pub(crate) fn reset_tdi(&mut self, region: usize) -> Result<(), ActionError> {
        match self.tdi_of[region] {
            Some(number) => {
                self.tdis[number].tdi.reset()?;
                self.run_tdi(number)
            }
            None => Ok(()),
        }
    }

    /// The private bytes of interfaces at these addresses, each with the number of its interface.
    pub(crate) fn tdi_parts(&self, range: AddrRange) -> Vec<(usize, Mapping)> {
        if self.tdis.is_empty() {
            return Vec::new();
        }
        let view = self.model.view(self.space);
        let parts = view.intersecting(range).filter_map(|run| {
            let bytes = run.region().handle().tdi?;
            let gpa = run.range().intersect(range)?;
            let offset = bytes.offset.checked_add(run.offset_of(gpa.start())?)?;
            let in_bar = AddrRange::new(offset, gpa.size())?;
            Some((bytes.tdi, Mapping::new(bytes.bar, in_bar, gpa.start())?))
        });
        parts.collect()
    }

    /// Has the guest accept private bytes of an interface. Returns how many.
    pub(crate) fn accept_tdi(&mut self, range: AddrRange) -> Result<u64, ActionError> {
        let parts = self.tdi_parts(range);
        let size: u128 = parts.iter().map(|(_, part)| part.gpa().size()).sum();
        let one = parts.first().map(|(number, _)| *number);
        let one = one.filter(|one| parts.iter().all(|(number, _)| number == one));
        let Some(number) = one.filter(|_| size == range.size()) else {
            return Err(ActionError::NotOneTdi { range });
        };
        let mappings: Vec<Mapping> = parts.into_iter().map(|(_, part)| part).collect();
        let private = self.tdis[number].private("accept")?;
        self.tdis[number].tdi.accept(&private, &mappings)?;
        self.run_tdi(number)?;
        Ok(u64::try_from(size).unwrap_or(u64::MAX))
    }

    /// Takes from the guest what it has accepted of interfaces at these addresses.
    pub(crate) fn release_tdis(&mut self, range: AddrRange) -> Result<(), ActionError> {
        for number in 0..self.tdis.len() {
            let tdi = &mut self.tdis[number].tdi;
            if tdi.occupant(range).is_some() {
                tdi.release(range)?;
                self.run_tdi(number)?;
            }
        }
        Ok(())
    }

    /// Carries out the steps of an interface.
    fn run_tdi(&mut self, number: usize) -> Result<(), ActionError> {
        let mut progress = Progress::Done;
        let mut first_why = None;
        while let Some(ticket) = self.tdis[number].tdi.begin() {
            let done = self.tdi_step(number, &ticket);
            let outcome = match &done {
                Ok(outcome) => *outcome,
                Err(_) => Outcome::Failed,
            };
            first_why = first_why.or(done.err());
            progress = self.tdis[number].tdi.answered(ticket, outcome)?;
        }
        match progress {
            Progress::Done | Progress::InProgress => Ok(()),
            Progress::NotDone(obstacle) => Err(ActionError::TdiStep {
                obstacle,
                why: first_why,
            }),
        }
    }

    /// Carries out one step. An error is a failure whose cause the VMM knows.
    fn tdi_step(&mut self, number: usize, ticket: &Ticket) -> Result<Outcome, String> {
        let step = ticket.step();
        let outcome = self.tdis[number].tsm.perform(step);
        if outcome != Outcome::Succeeded {
            return Ok(outcome);
        }
        match step {
            Step::FetchReport => self.tdis[number].read_report(ticket)?,
            Step::Offer(mapping) => {
                let gpa = mapping.gpa();
                let size = u64::try_from(gpa.size()).unwrap_or(u64::MAX);
                let request = Request::accept(gpa.start(), size).map_err(|e| e.to_string())?;
                if let Err(error) = self.convert_pages(request) {
                    // Nothing has changed, so the security manager must not have the pages either.
                    self.tdis[number].tsm.perform(Step::Revoke(mapping));
                    return Err(error.to_string());
                }
            }
            Step::Revoke(mapping) => self.revoke(mapping.gpa()),
            _ => {}
        }
        Ok(outcome)
    }
}
