// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The guest's configuration space.

use alloc::vec::Vec;

use super::bars::{self, GuestBar};
use super::effect::{ConfigEffect, MsixControl};
use super::error::EmulateError;
use super::msi::{Msi, MsiState};
use super::registers::Registers;
use crate::bar::{Bar, BarIndex, BarKind, BarRange};
use crate::bytes::{le16, patched};
use crate::config::ConfigSpace;
use crate::reach::{Reach, ReachChange, ReachEvent};
use crate::relocate::Relocation;

/// The command register, with its bits for I/O decoding and against the interrupt line.
const COMMAND: usize = 4;
const IO_SPACE: u16 = 1;
const INTX_DISABLE: u16 = 1 << 10;

const MSI: u8 = 0x05;
const MSIX: u8 = 0x11;

/// The control register of MSI-X, in its capability, and its bits (7.7.2).
const MSIX_CONTROL: usize = 2;
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_MASK: u16 = 1 << 14;

/// The guest's configuration space of a VFIO device.
///
/// BARs, MSI and MSI-X are emulated. The rest is the device's: a [read](Self::read) leaves it as it
/// is, and a [write](Self::write) returns what to forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestConfig {
    registers: Registers,
    bars: Vec<GuestBar>,
    msi: Option<Msi>,
    /// Where the capability of MSI-X is.
    msix: Option<usize>,
    command: u16,
    reach: Reach,
}

/// The state from which effects are derived.
#[derive(Clone, Debug)]
struct State {
    places: Vec<Option<u64>>,
    msi: Option<MsiState>,
    msix: Option<MsixControl>,
    io_decode: bool,
    intx_disabled: bool,
}

impl GuestConfig {
    /// Configuration space for a device whose configuration space VFIO shows as `config`, with these
    /// BARs. The BARs have no address, MSI and MSI-X are off, and everything else is the device's.
    ///
    /// `config` must be the state that the guest starts with. In particular, switch memory decoding off
    /// before reading it if the guest is to switch it on: with decoding on in `config`, a BAR shows as
    /// soon as it has an address. [`observe`](Self::observe) follows later changes by the VMM.
    ///
    /// # Errors
    ///
    /// [`EmulateError`] for invalid configuration space, or for BARs that do not fit it.
    pub fn new(config: &[u8], bars: &[Bar]) -> Result<Self, EmulateError> {
        let chain = ConfigSpace::new(config)?.capabilities()?;
        let find = |id| {
            let found = chain.iter().find(|capability| capability.id == id);
            found.map(|capability| usize::from(capability.offset))
        };
        let mut registers = Registers::new();
        let msi = find(MSI).map(|at| Msi::emulate(config, at, &mut registers));
        let msi = msi.transpose()?;
        // Checks that the capability is whole.
        ConfigSpace::new(config)?.msix()?;
        let msix = find(MSIX);
        if let Some(at) = msix {
            let control = le16(config, at + MSIX_CONTROL).unwrap_or_default();
            let writable = MSIX_ENABLE | MSIX_MASK;
            let fixed = (control & !writable).to_le_bytes();
            registers.emulate(at + MSIX_CONTROL, &fixed, &writable.to_le_bytes());
        }
        let bars = bars::emulate(config, bars, &mut registers)?;
        Ok(Self {
            registers,
            bars,
            msi,
            msix,
            command: le16(config, COMMAND).unwrap_or_default(),
            reach: Reach::of(config)?,
        })
    }

    /// The same with MSI-X where the guest is to find it: `config` and `bars` are as for
    /// [`new`](Self::new).
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new); the enlarged BAR may be too large for its register.
    pub fn relocated(
        config: &[u8],
        bars: &[Bar],
        relocation: &Relocation,
    ) -> Result<Self, EmulateError> {
        let shown = |bar: &Bar| match bar.index() == relocation.bar.index() {
            true => relocation.bar,
            false => *bar,
        };
        let bars: Vec<Bar> = bars.iter().map(shown).collect();
        let mut guest = Self::new(config, &bars)?;
        if let Some(at) = guest.msix {
            let place = |at: BarRange| {
                // A relocation is within reach of 32 bits.
                let offset = u32::try_from(at.range.start()).unwrap_or_default();
                (offset | u32::from(at.bar.get())).to_le_bytes()
            };
            let msix = relocation.msix;
            guest.registers.emulate(at + 4, &place(msix.table), &[0; 4]);
            guest.registers.emulate(at + 8, &place(msix.pba), &[0; 4]);
        }
        Ok(guest)
    }

    /// Fills in what is emulated. `data` is what the device has there.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        self.registers.read(offset, data);
    }

    /// Carries out the guest's write of `data` at `offset`. Returns what the VMM must do, in order. Any
    /// bytes may be written anywhere; those past the end of configuration space are ignored.
    #[must_use = "a guest's write has effects"]
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Vec<ConfigEffect> {
        let old = self.state();
        let ReachChange {
            before,
            after,
            next,
        } = self.reach.on_write(offset, data);
        self.reach = next;
        self.registers.write(offset, data);
        let command = patched(self.command.to_le_bytes(), COMMAND, offset, data);
        self.command = u16::from_le_bytes(command);

        let mut effects: Vec<ConfigEffect> = before.map(ConfigEffect::Reach).into_iter().collect();
        self.differences(&old, &mut effects);
        let devices = self.registers.devices(offset, data.len());
        effects.extend(devices.into_iter().map(|run| ConfigEffect::Forward {
            offset: offset + run.start as u64,
            data: data[run].to_vec(),
        }));
        effects.extend(after.map(ConfigEffect::Reach));
        effects
    }

    /// Synchronizes with the device's configuration space, which is now `config`. Returns what the VMM
    /// must do. The device may have ignored a forwarded write, for example if it has no D3hot, or may
    /// have been reset.
    ///
    /// # Errors
    ///
    /// [`EmulateError::Config`].
    pub fn observe(&mut self, config: &[u8]) -> Result<Vec<ConfigEffect>, EmulateError> {
        let old = self.state();
        let next = Reach::of(config)?;
        let event = self.reach.event(next);
        self.reach = next;
        self.command = le16(config, COMMAND).unwrap_or_default();
        let is_first = matches!(event, Some(ReachEvent::Revoked(_)));
        let event = event.map(ConfigEffect::Reach);
        let mut effects = Vec::new();
        effects.extend(event.clone().filter(|_| is_first));
        self.differences(&old, &mut effects);
        effects.extend(event.filter(|_| !is_first));
        Ok(effects)
    }

    /// Whether the device answers at its memory BARs. [`Reach::on_reset`] has the effects of a reset by
    /// the VMM.
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// The BARs, each with the address that the guest has given it.
    pub fn bars(&self) -> impl Iterator<Item = (Bar, Option<u64>)> + '_ {
        let place = |guest: &GuestBar| (guest.bar, guest.place(&self.registers));
        self.bars.iter().map(place)
    }

    /// The address at which the guest finds a BAR now. `None` if it has no address, if there is no
    /// such BAR, or if the device does not answer there.
    pub fn shown(&self, bar: BarIndex) -> Option<u64> {
        let (bar, place) = self.bars().find(|(found, _)| found.index() == bar)?;
        let answers = match bar.kind() {
            BarKind::Memory => self.reach.missing().is_none(),
            BarKind::Io => self.command & IO_SPACE != 0,
        };
        place.filter(|_| answers)
    }

    /// The guest's setup of MSI; `None` if it is off, or the device has none.
    pub fn msi(&self) -> Option<MsiState> {
        self.msi?.state(&self.registers)
    }

    /// The guest's setup of MSI-X; `None` if the device has none.
    pub fn msix(&self) -> Option<MsixControl> {
        let control = u16::from_le_bytes(self.registers.get(self.msix? + MSIX_CONTROL));
        Some(MsixControl {
            enabled: control & MSIX_ENABLE != 0,
            function_mask: control & MSIX_MASK != 0,
        })
    }

    fn state(&self) -> State {
        State {
            places: self.bars().map(|(_, place)| place).collect(),
            msi: self.msi(),
            msix: self.msix(),
            io_decode: self.command & IO_SPACE != 0,
            intx_disabled: self.command & INTX_DISABLE != 0,
        }
    }

    fn differences(&self, old: &State, effects: &mut Vec<ConfigEffect>) {
        let new = self.state();
        for ((bar, to), from) in self.bars().zip(&old.places) {
            if to != *from {
                let bar = bar.index();
                effects.push(ConfigEffect::BarMoved { bar, to });
            }
        }
        if new.io_decode != old.io_decode {
            effects.push(ConfigEffect::IoDecode(new.io_decode));
        }
        if new.intx_disabled != old.intx_disabled {
            effects.push(ConfigEffect::IntxDisabled(new.intx_disabled));
        }
        if new.msi != old.msi {
            effects.push(ConfigEffect::Msi(new.msi));
        }
        let msix = new.msix.filter(|_| new.msix != old.msix);
        effects.extend(msix.map(ConfigEffect::Msix));
    }
}
