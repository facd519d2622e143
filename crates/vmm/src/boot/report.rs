// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What `vmm boot` reports at the end.

use std::sync::atomic::Ordering;

use memory_map::SlotRow;
use memory_map::text::Layout;
use memory_model::{AddrRange, Kind, MemoryModel, SpaceId};
use serde::Serialize;

use super::bus::Handle;
use super::machine::Machine;
use super::outcome::Outcome;

/// The note in place of what cannot be reported.
const BUSY: &str = "exits, memslots and DMA are unknown: a vCPU is still changing memory";

/// How the guest ended, and what was seen of it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// `power-off`, `panic`, `reset`, `fault` or `left`.
    pub ended: &'static str,
    /// What happened, if it was a fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// The regions whose accesses left the guest, each with their number.
    pub exits: Vec<RegionExits>,
    /// The memslots at the end.
    pub slots: Vec<SlotRow>,
    /// How often an eventfd was connected to an interrupt of the guest (irqfd), which
    /// every unmask of a vector does again. No interrupt of a device reaches the guest in
    /// another way.
    pub irqfds: u64,
    /// What devices reach by DMA; absent without assigned devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dma: Option<DmaReport>,
    /// What the user should know.
    pub notes: Vec<String>,
    #[serde(skip)]
    status: u8,
}

/// How often accesses to a region left the guest.
#[derive(Debug, Serialize)]
pub struct RegionExits {
    /// The region.
    pub region: String,
    /// How often.
    pub count: u64,
}

/// Memory that devices reach, in bytes.
#[derive(Debug, Serialize)]
pub struct DmaReport {
    /// What is mapped at the end.
    pub mapped: u64,
    /// RAM that is shared at the end.
    pub shared: u64,
    /// What has become private while the guest ran. It was unmapped before KVM made it
    /// private: [`DmaCheck`](super::dma::DmaCheck) refuses the conversion otherwise.
    pub became_private: u64,
    /// What has become shared.
    pub became_shared: u64,
}

impl DmaReport {
    fn new(machine: &Machine, model: &MemoryModel<Handle>) -> Option<Self> {
        let dma = machine.dma()?;
        let (became_private, became_shared) = dma.converted();
        Some(Self {
            mapped: dma.mapped(),
            shared: shared(model, machine.spaces.memory),
            became_private,
            became_shared,
        })
    }
}

/// How much of RAM is shared.
fn shared(model: &MemoryModel<Handle>, memory: SpaceId) -> u64 {
    let (view, private) = (model.view(memory), model.private(memory));
    let size = |range: AddrRange| range.size_u64().unwrap_or(u64::MAX);
    let ram = view.ranges().map(|run| (run.region().kind(), run.range()));
    let ram = ram.filter(|(kind, _)| matches!(kind, Kind::Ram(_)));
    let shared = ram.map(|(_, range)| size(range) - private.within(range).map(size).sum::<u64>());
    shared.sum()
}

impl Report {
    /// The report on a machine whose guest is over. It does not wait for a vCPU that has not
    /// stopped: while one changes memory, the report has no exits, memslots or DMA.
    pub fn new(machine: &Machine, outcome: Outcome) -> Self {
        let status = outcome.status();
        let (ended, fault) = match outcome {
            Outcome::PowerOff => ("power-off", None),
            Outcome::Panic => ("panic", None),
            Outcome::Reset => ("reset", None),
            Outcome::Fault(text) => ("fault", Some(text)),
            Outcome::Left => ("left", None),
        };
        let mut report = Self {
            ended,
            fault,
            exits: Vec::new(),
            slots: Vec::new(),
            irqfds: machine.interrupts.assigned(),
            dma: None,
            notes: notes(machine),
            status,
        };
        // Memslots and DMA mappings change only while the model is locked.
        match machine.spaces.try_model() {
            Some(model) => report.add_memory(machine, &model),
            None => report.notes.push(BUSY.into()),
        }
        report
    }

    fn add_memory(&mut self, machine: &Machine, model: &MemoryModel<Handle>) {
        self.exits = exits(model);
        self.slots = machine.slots.table().slots().map(SlotRow::from).collect();
        self.dma = DmaReport::new(machine, model);
    }

    /// The exit status of `vmm boot`.
    pub fn status(&self) -> u8 {
        self.status
    }

    /// The report in words.
    pub fn text(&self, layout: Layout) -> String {
        let end = match (self.ended, &self.fault) {
            ("power-off", _) => "the guest switched itself off".into(),
            ("panic", _) => "the guest's kernel panicked".into(),
            ("reset", _) => "the guest reset the machine".into(),
            (_, Some(fault)) => format!("a vCPU cannot go on: {fault}"),
            _ => "left".to_string(),
        };
        let notes = self.notes.iter().map(|note| format!("note: {note}"));
        let lines = [end].into_iter().chain(notes);
        lines
            .map(|line| layout.fill("vmm: ", &line, 5) + "\n")
            .collect()
    }
}

/// The notes, and the errors that functions have kept.
fn notes(machine: &Machine) -> Vec<String> {
    let errors = machine.bus.take_errors();
    let errors = errors.map(|(number, error)| format!("PCI device {number}: {error}"));
    let dropped = dropped_input(machine.serial.dropped());
    let notes = machine.notes.list().into_iter();
    notes.chain(dropped).chain(errors).collect()
}

fn dropped_input(bytes: u64) -> Option<String> {
    let note = || format!("{bytes} bytes of input are lost: the guest did not read them in time");
    (bytes > 0).then(note)
}

fn exits(model: &MemoryModel<Handle>) -> Vec<RegionExits> {
    let tree = model.tree();
    let all = tree.roots().flat_map(|root| tree.walk(root));
    let regions = all.filter_map(|(_, id)| tree.region(id).ok());
    let counted = regions.map(|region| RegionExits {
        region: region.name().into(),
        count: region.handle().exits.load(Ordering::Relaxed),
    });
    counted.filter(|exits| exits.count > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_input_is_noted() {
        assert_eq!(dropped_input(0), None);
        let note = dropped_input(17).unwrap();
        assert!(note.starts_with("17 bytes of input are lost"), "{note}");
    }
}
