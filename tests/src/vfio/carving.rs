// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How BARs are cut at pages of the host, and that a guest reaches each part as it
//! was cut. Pages of 16 KiB put an MSI-X table and registers together.

use std::collections::BTreeMap;
use std::sync::Arc;

use kvm_slots::exit::MmioHandler;
use vfio_private::Access::{Shared, Trap};
use vfio_private::config::ConfigSpace;
use vfio_private::device::{Device, VfioInterface};
use vfio_private::region_info::RegionInfo;
use vfio_private::{Access, Msix, MsixPart, PageSize, Reason};
use vmm::machine::{How, Step};

use super::guest::{A, Board, Guest};
use super::regions::{self, OpenBar};
use super::{Model, OnDevice, at, same};
use crate::backends::{all_ok, machine, run};
use crate::needs::{Need, kvm};
use crate::subject::{Subject, host_page_size};

/// What the tests need: an interface, a device, a KVM, and the host's pages.
const fn needs(way: usize, model: Model, size: PageSize) -> [Need; 4] {
    let way = Need::VfioInterface(VfioInterface::ALL[way]);
    [way, Need::Vfio(model), Need::Kvm, Need::HostPages(size)]
}

type Test = (
    Model,
    PageSize,
    &'static str,
    fn(&Device) -> Result<(), String>,
);

const TESTS: [Test; 4] = [
    (
        Model::Nvme,
        PageSize::Size4K,
        "its_registers_are_direct_beside_the_pages_of_its_table_and_pending_bits",
        nvme_of_four_pages,
    ),
    (
        Model::Nvme,
        PageSize::Size16K,
        "its_registers_share_the_only_page_with_its_table_and_are_trapped",
        nvme_of_one_page,
    ),
    (
        Model::E1000e,
        PageSize::Size4K,
        "only_the_pages_of_its_table_and_pending_bits_are_trapped",
        e1000e_of_four_pages,
    ),
    (
        Model::E1000e,
        PageSize::Size16K,
        "the_bar_of_its_table_is_trapped_and_its_registers_are_direct",
        e1000e_of_one_page,
    ),
];

static NEEDS: [[[Need; 4]; TESTS.len()]; VfioInterface::ALL.len()] = {
    let mut all = [[[Need::Kvm; 4]; TESTS.len()]; VfioInterface::ALL.len()];
    let mut way = 0;
    while way < all.len() {
        let mut test = 0;
        while test < TESTS.len() {
            all[way][test] = needs(way, TESTS[test].0, TESTS[test].1);
            test += 1;
        }
        way += 1;
    }
    all
};

/// All tests for each VFIO interface.
pub(super) fn all() -> Vec<OnDevice> {
    let ways = VfioInterface::ALL.iter().copied().zip(&NEEDS);
    let tests = ways.flat_map(|(way, needs)| {
        TESTS
            .into_iter()
            .zip(needs)
            .map(move |((model, _, name, run), needs)| OnDevice {
                name,
                model,
                way,
                needs,
                run,
            })
    });
    tests.collect()
}

/// A piece as offset, size, access and reasons.
type Shape = (u64, u64, Access, &'static [Reason]);

/// nvme's registers: the version, which is 1.4 (NVM Express Base Specification,
/// 3.1.4.2), and the sizes of the admin queues.
const NVME_VERSION: (u64, u32) = (0x8, 0x1_0400);
const NVME_QUEUES: (u64, u32) = (0x24, 0x001f_003f);

fn nvme_of_four_pages(device: &Device) -> Result<(), String> {
    nvme(
        device,
        &[
            (0, 0x2000, Shared, &[Reason::NoReport]),
            (0x2000, 0x1000, Trap, &[Reason::MsixTable]),
            (0x3000, 0x1000, Trap, &[Reason::MsixPba]),
        ],
    )
}

fn nvme_of_one_page(device: &Device) -> Result<(), String> {
    let both = &[Reason::MsixTable, Reason::MsixPba];
    nvme(device, &[(0, 0x4000, Trap, both)])
}

fn nvme(device: &Device, shapes: &[Shape]) -> Result<(), String> {
    let mut view = View::new(device, 0, shapes)?;
    let (version, queues) = (NVME_VERSION, NVME_QUEUES);
    same("version", view.load(version.0, 4)?, version.1.into())?;
    // Eight bytes at once.
    let capabilities = view.of_device(0, 8)?;
    same("capabilities", view.load(0, 8)?, capabilities)?;
    for value in [queues.1, 0] {
        view.store(queues.0, 4, value.into())?;
        same("a register", view.load(queues.0, 4)?, value.into())?;
        same("the device's", view.of_device(queues.0, 4)?, value.into())?;
    }
    view.entries(0x2000, 64)?;
    same("pending bits", view.load(0x3000, 8)?, 0)?;
    view.exits_are_of(&[version.0, 0, queues.0, queues.0, queues.0, queues.0])
}

fn e1000e_of_four_pages(device: &Device) -> Result<(), String> {
    e1000e(
        device,
        &[
            (0, 0x1000, Trap, &[Reason::MsixTable]),
            (0x1000, 0x1000, Shared, &[Reason::NoReport]),
            (0x2000, 0x1000, Trap, &[Reason::MsixPba]),
            (0x3000, 0x1000, Shared, &[Reason::NoReport]),
        ],
    )
}

fn e1000e_of_one_page(device: &Device) -> Result<(), String> {
    let both = &[Reason::MsixTable, Reason::MsixPba];
    e1000e(device, &[(0, 0x4000, Trap, both)])
}

/// BAR 0 has registers alone, and BAR 3 has MSI-X alone.
fn e1000e(device: &Device, shapes: &[Shape]) -> Result<(), String> {
    /// The VLAN Ether type, which holds what is written.
    const VLAN: u64 = 0x38;
    let whole = (0, 0x2_0000, Shared, &[Reason::NoReport][..]);
    let mut registers = View::new(device, 0, &[whole])?;
    for value in [0x9100, 0x8100] {
        registers.store(VLAN, 4, value)?;
        same("a register", registers.load(VLAN, 4)?, value)?;
        same("the device's", registers.of_device(VLAN, 4)?, value)?;
    }
    registers.exits_are_of(&[])?;

    let mut msix = View::new(device, 3, shapes)?;
    msix.entries(0, 4)?;
    same("pending bits", msix.load(0x2000, 8)?, 0)?;
    for offset in [0x1000, 0x3000] {
        let nothing = msix.of_device(offset, 4)?;
        same("no register", msix.load(offset, 4)?, nothing)?;
    }
    msix.exits_are_of(&[0x1000, 0x3000])
}

/// Runs the machine `real_devices`. Its script is for pages of 4 KiB. Where pages are
/// larger, nvme's BAR is a single trapped one.
///
/// # Errors
/// The first step that did not meet its expectation.
pub fn real_devices() -> Result<(), String> {
    let mut machine = machine("real_devices")?;
    if host_page_size() > 0x1000 {
        let bar = machine.regions.iter().find(|r| r.name == "nvme.bar0");
        let bar = bar.ok_or("no nvme")?;
        let place = bar.place.ok_or("nvme is nowhere")?;
        let is_in_bar = |gpa: u64| {
            let offset = gpa.checked_sub(place.at);
            offset.is_some_and(|offset| u128::from(offset) < bar.size)
        };
        for step in &mut machine.steps {
            match step {
                Step::Guest(access) if is_in_bar(access.gpa) => access.how = How::Mmio,
                _ => {}
            }
        }
    }
    all_ok(&run(&machine, &kvm(&machine)?)?)
}

/// Answers a guest's trapped accesses to a BAR: from a table of its own for MSI-X, and
/// with the device's registers otherwise.
#[derive(Debug)]
struct Answers<'a> {
    device: &'a Device,
    bar: OpenBar,
    msix: Msix,
    entries: BTreeMap<u64, u8>,
    /// The offsets of exits for registers, and how many there were for MSI-X.
    exits: (Vec<u64>, usize),
    failed: Option<String>,
}

impl Answers<'_> {
    fn is_msix(&self, offset: u64) -> bool {
        [MsixPart::Table, MsixPart::Pba]
            .into_iter()
            .map(|part| self.msix.place(part))
            .any(|place| place.bar == self.bar.bar.index() && place.range.contains(offset))
    }

    /// Counts an exit. Returns the offset, and whether it is for MSI-X.
    fn exit(&mut self, gpa: u64) -> (u64, bool) {
        let offset = gpa - A;
        let is_msix = self.is_msix(offset);
        match is_msix {
            true => self.exits.1 += 1,
            false => self.exits.0.push(offset),
        }
        (offset, is_msix)
    }

    fn info(&self) -> &RegionInfo {
        &self.bar.info
    }
}

impl MmioHandler for Answers<'_> {
    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) {
        let (offset, is_msix) = self.exit(gpa);
        if is_msix {
            for (place, byte) in (offset..).zip(data) {
                *byte = self.entries.get(&place).copied().unwrap_or(0);
            }
        } else if let Err(error) = self.device.read(self.info(), offset, data) {
            self.failed = Some(error.to_string());
        }
    }

    fn mmio_write(&mut self, gpa: u64, data: &[u8]) {
        let (offset, is_msix) = self.exit(gpa);
        if is_msix {
            self.entries.extend((offset..).zip(data.to_vec()));
        } else if let Err(error) = self.device.write(self.info(), offset, data) {
            self.failed = Some(error.to_string());
        }
    }
}

/// A guest with a BAR at [`A`].
#[derive(Debug)]
struct View<'a> {
    guest: Guest,
    _board: Board,
    answers: Answers<'a>,
}

impl<'a> View<'a> {
    /// Requires these pieces, and maps the shared ones.
    fn new(device: &'a Device, number: u8, shapes: &[Shape]) -> Result<Self, String> {
        let bar = regions::bar(device, number)?;
        let found = bar.pieces.iter().map(|piece| {
            let reasons: Vec<Reason> = piece.reasons().iter().collect();
            (piece.offset(), piece.size(), piece.access(), reasons)
        });
        let due = shapes
            .iter()
            .map(|(offset, size, access, reasons)| (*offset, *size, *access, reasons.to_vec()));
        same("pieces", found.collect::<Vec<_>>(), due.collect())?;

        let (guest, mut board) = Board::new()?;
        for piece in &bar.pieces {
            if piece.access() == Shared {
                let mapping = device.map_piece(bar.bar.index(), *piece);
                let mapping = Arc::new(mapping.map_err(at("a mapping"))?);
                board.show("registers", &mapping, A + piece.offset())?;
            }
        }
        let config = device.config_space().map_err(at("configuration space"))?;
        let config = ConfigSpace::new(&config).map_err(at("configuration space"))?;
        let msix = config.msix().map_err(at("MSI-X"))?.ok_or("no MSI-X")?;
        let answers = Answers {
            device,
            bar,
            msix,
            entries: BTreeMap::new(),
            exits: (Vec::new(), 0),
            failed: None,
        };
        Ok(Self {
            guest,
            _board: board,
            answers,
        })
    }

    fn access(&mut self, offset: u64, size: usize, value: Option<u64>) -> Result<u64, String> {
        let real = &mut self.guest.real;
        let seen = real.access(A + offset, size, value, &mut self.answers);
        let seen = seen.map_err(at(format!("{offset:#x}")))?;
        self.answers.failed.take().map_or(Ok(seen), Err)
    }

    fn load(&mut self, offset: u64, size: usize) -> Result<u64, String> {
        self.access(offset, size, None)
    }

    fn store(&mut self, offset: u64, size: usize, value: u64) -> Result<(), String> {
        self.access(offset, size, Some(value)).map(drop)
    }

    /// A register through a system call.
    fn of_device(&self, offset: u64, size: usize) -> Result<u64, String> {
        let mut bytes = [0; 8];
        let Answers { device, bar, .. } = &self.answers;
        let read = device.read(&bar.info, offset, &mut bytes[..size]);
        read.map_err(at(format!("{offset:#x}")))?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// The guest writes and reads the first and the last entry of the MSI-X table,
    /// which the VMM keeps.
    fn entries(&mut self, table: u64, last: u64) -> Result<(), String> {
        let before = self.answers.exits.clone();
        let words = |entry: u64| {
            let start = table + 16 * entry;
            (start..start + 16).step_by(4)
        };
        for offset in words(0).chain(words(last)) {
            self.store(offset, 4, !offset & 0xffff_ffff)?;
        }
        for offset in words(0).chain(words(last)) {
            same("an entry", self.load(offset, 4)?, !offset & 0xffff_ffff)?;
        }
        let due = (before.0, before.1 + 16);
        same("exits", &self.answers.exits, &due)
    }

    /// Requires that exits for registers were exactly those of `accesses` that are to
    /// trapped pieces.
    fn exits_are_of(&self, accesses: &[u64]) -> Result<(), String> {
        let pieces = &self.answers.bar.pieces;
        let is_trapped = |offset: &u64| {
            let mut trapped = pieces.iter().filter(|piece| piece.access() == Trap);
            trapped.any(|piece| piece.range().contains(*offset))
        };
        let due: Vec<u64> = accesses.iter().copied().filter(is_trapped).collect();
        same("exits", &self.answers.exits.0, &due)
    }
}
