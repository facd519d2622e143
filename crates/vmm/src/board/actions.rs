// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Performs the actions of a script: what the VMM does while the guest runs.

use std::sync::Arc;

use kvm_slots::convert::{ConvertError, ModelPages, PageRange, PageState, Request, RequestError};
use kvm_slots::{FollowError, PlanError, Unsupported, Vm};
use memory_model::{AddrRange, CommitError, FlatRange, RegionId, Transaction, TreeError};
use vfio_private::device::{Device, DeviceError, PciAddress};
use vfio_private::tdi::{Obstacle, TdiError};

use crate::board::Board;
use crate::board::handle::Handle;
use crate::devices::assigned::AssignedDevice;
use crate::machine::{ActionKind, ErrorCode, GpaRange};
use bar_report::with_causes;

/// Why an action failed. A failed action changes nothing, except that:
///
/// - After [`TdiStep`](Self::TdiStep), earlier steps of the interface may remain.
/// - `give-back` does not accept again what it has given back.
/// - `reset` and `decode` revoke accepted pages before they change the device. If the
///   device then fails, the pages stay revoked, and a TEE device interface stays reset or
///   broken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ActionError {
    /// This kernel does not support the region.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The region tree does not allow it.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A listener refused the new view, or it could not be rendered.
    #[error("{}", with_causes(.0))]
    Commit(#[from] CommitError),
    /// The pages could not be converted.
    #[error(transparent)]
    Convert(ConvertError),
    /// The device refused.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The device has no reset of its own.
    #[error("{device} cannot be reset on its own")]
    NoReset {
        /// The device.
        device: PciAddress,
    },
    /// The TEE device interface refused the request.
    #[error(transparent)]
    Tdi(#[from] TdiError),
    /// A step that the TEE device interface needs did not succeed. Earlier ones are undone as far
    /// as possible.
    #[error("{obstacle}{}", why.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    TdiStep {
        /// The step.
        obstacle: Obstacle,
        /// Why, if the VMM knows.
        why: Option<String>,
    },
    /// Only a part of the addresses is private MMIO of a TEE device interface.
    #[error("not all of {range} is private MMIO of one TEE device interface")]
    NotOneTdi {
        /// The addresses.
        range: AddrRange,
    },
    /// The bytes have no host address.
    #[error("there is no host address at {gpa:#x}")]
    NoHostAddress {
        /// The guest-physical address.
        gpa: u64,
    },
}

impl ActionError {
    /// The code of the error in machine files and reports.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Unsupported(_) => ErrorCode::Unsupported,
            Self::Tree(_) => ErrorCode::Tree,
            Self::Commit(CommitError::Accepted { .. }) => ErrorCode::Accepted,
            Self::Commit(CommitError::TooComplex { .. }) => ErrorCode::TooComplex,
            Self::Commit(CommitError::Refused { source, .. }) => match source.downcast_ref() {
                Some(FollowError::Plan(PlanError::Unsupported(_))) => ErrorCode::Unsupported,
                Some(FollowError::Plan(PlanError::TooManySlots { .. })) => ErrorCode::TooManySlots,
                Some(FollowError::Plan(PlanError::BeyondAddresses { .. })) => ErrorCode::OutOfReach,
                _ => ErrorCode::Kvm,
            },
            Self::Commit(_) => ErrorCode::Kvm,
            Self::Convert(ConvertError::Refused(_)) => ErrorCode::WrongKind,
            Self::Convert(ConvertError::Request(RequestError::Unaligned { .. })) => {
                ErrorCode::Unaligned
            }
            Self::Convert(_) => ErrorCode::Kvm,
            Self::Device(_) | Self::NoReset { .. } => ErrorCode::Device,
            Self::Tdi(_) | Self::TdiStep { .. } => ErrorCode::Tdi,
            Self::NotOneTdi { .. } => ErrorCode::WrongKind,
            Self::NoHostAddress { .. } => ErrorCode::NoHostAddress,
        }
    }
}

impl From<ConvertError> for ActionError {
    fn from(error: ConvertError) -> Self {
        match error {
            ConvertError::Unsupported(why) => Self::Unsupported(why),
            error => Self::Convert(error),
        }
    }
}

impl From<RequestError> for ActionError {
    fn from(error: RequestError) -> Self {
        Self::Convert(error.into())
    }
}

/// A device that may have a reset of its own.
trait ResetDevice {
    fn address(&self) -> PciAddress;
    fn can_reset(&self) -> bool;
    /// Resets the device, and switches its memory decoding on.
    fn reset_and_decode(&self) -> Result<(), DeviceError>;
}

impl ResetDevice for Device {
    fn address(&self) -> PciAddress {
        self.address()
    }

    fn can_reset(&self) -> bool {
        self.can_reset()
    }

    fn reset_and_decode(&self) -> Result<(), DeviceError> {
        self.reset()?;
        self.set_memory_decode(true).map(drop)
    }
}

impl<V: Vm + Clone + Send + Sync + 'static> Board<V> {
    /// Performs an action. Returns the value of a host read.
    ///
    /// # Errors
    /// [`ActionError`].
    pub fn perform(&mut self, what: &ActionKind) -> Result<Option<u64>, ActionError> {
        match *what {
            ActionKind::Move { region, to } => {
                self.change(region, |t, id| t.move_to(id, to))?;
            }
            ActionKind::Enable { region, on } => {
                self.change(region, |t, id| t.set_enabled(id, on))?;
            }
            ActionKind::ReadOnly { region, on } => {
                self.change(region, |t, id| t.set_readonly(id, on))?;
            }
            ActionKind::DirectReads { region, on } => {
                self.change(region, |t, id| t.set_direct_reads(id, on))?;
            }
            ActionKind::Accept(span) => {
                self.supported(span)?;
                self.convert(Request::accept(span.gpa, span.size)?)?;
            }
            ActionKind::GiveBack(span) => self.give_back(span)?,
            ActionKind::Revoke(span) => {
                let range = self.supported(span)?;
                self.release_tdis(range)?;
                self.revoke(range);
            }
            ActionKind::Decode { region, on } => self.decode(region, on)?,
            ActionKind::Reset { region } => self.reset(region)?,
            ActionKind::Tdi { region, change } => self.change_tdi(region, change)?,
            ActionKind::Convert { span, private } => {
                let to = match private {
                    true => PageState::Private,
                    false => PageState::Shared,
                };
                self.supported(span)?;
                self.convert(Request::new(span.gpa, span.size, to)?)?;
            }
            ActionKind::HostRead { gpa, size, .. } => {
                let mut bytes = [0; 8];
                self.host(gpa, size, |host, offset, len| {
                    host.read(offset, &mut bytes[..len])
                })?;
                return Ok(Some(u64::from_le_bytes(bytes)));
            }
            ActionKind::HostWrite { gpa, size, value } => {
                let bytes = value.to_le_bytes();
                self.host(gpa, size, |host, offset, len| {
                    host.write(offset, &bytes[..len])
                })?;
            }
        }
        Ok(None)
    }

    /// Changes one region in a transaction of its own. The reservation that stands
    /// in for an unsupported region changes in its place.
    fn change(
        &mut self,
        region: usize,
        change: impl FnOnce(&mut Transaction<'_, Handle>, RegionId) -> Result<(), TreeError>,
    ) -> Result<(), ActionError> {
        let id = self.regions[region];
        let mut transaction = self.model.transaction();
        change(&mut transaction, id)?;
        Ok(transaction.commit()?)
    }

    /// Converts pages in the model and in KVM, and discards their stale bytes.
    /// Returns the number of bytes converted.
    pub(crate) fn convert(&mut self, request: Request) -> Result<u64, ActionError> {
        let range = AddrRange::from(request.range());
        if !self.tdi_parts(range).is_empty() {
            match request.to() {
                PageState::Private => return self.accept_tdi(range),
                PageState::Shared => self.release_tdis(range)?,
            }
        }
        self.convert_pages(request)
    }

    /// Converts pages, whoever they belong to.
    pub(crate) fn convert_pages(&mut self, request: Request) -> Result<u64, ActionError> {
        let mut pages = ModelPages::new(&mut self.model, self.space);
        // If the host failed to discard stale bytes, the next step of the script
        // would read them.
        Ok(self.engine.convert(&mut pages, request)?.bytes)
    }

    /// Makes those of these pages shared that the guest has accepted.
    fn give_back(&mut self, span: GpaRange) -> Result<(), ActionError> {
        let range = self.supported(span)?;
        PageRange::new(span.gpa, span.size).map_err(RequestError::from)?;
        for part in self.model.accepted(self.space).clipped(range).iter() {
            let size = part.last() - part.start() + 1;
            self.convert(Request::new(part.start(), size, PageState::Shared)?)?;
        }
        Ok(())
    }

    /// The addresses as a range, unless this kernel does not support a region there.
    fn supported(&self, span: GpaRange) -> Result<AddrRange, ActionError> {
        let range = AddrRange::new(span.gpa, span.size.into());
        let range = range.ok_or(ActionError::NoHostAddress { gpa: span.gpa })?;
        match self.refusal(range) {
            Some(why) => Err(why.into()),
            None => Ok(range),
        }
    }

    /// Revokes those of these pages that the guest has accepted.
    pub(crate) fn revoke(&mut self, range: AddrRange) {
        if let Some(range) = PageRange::touching(range) {
            let mut pages = ModelPages::new(&mut self.model, self.space);
            // On an error KVM still takes them for private. That makes no
            // difference: the device behind them is gone.
            let _ = self.engine.revoke(&mut pages, range);
        }
    }

    /// Switches a device's memory decoding. Before it is switched off, its accepted
    /// pages are revoked, so that the guest reaches nothing stale.
    fn decode(&mut self, region: usize, on: bool) -> Result<(), ActionError> {
        if !on {
            // An interface that is locked does not survive it (TDISP).
            self.break_locked_tdi(region)?;
            self.revoke_device(region);
        }
        if let Some(assigned) = self.assigned(self.regions[region]) {
            assigned.device().set_memory_decode(on)?;
        }
        Ok(())
    }

    /// Resets a device, then switches its memory decoding on, as a guest would.
    fn reset(&mut self, region: usize) -> Result<(), ActionError> {
        let assigned = self.assigned(self.regions[region]);
        let device = assigned.as_ref().map(|assigned| assigned.device());
        self.reset_with(region, device)
    }

    fn reset_with(
        &mut self,
        region: usize,
        device: Option<&impl ResetDevice>,
    ) -> Result<(), ActionError> {
        // Nothing is revoked for a reset that cannot happen.
        if let Some(device) = device.filter(|device| !device.can_reset()) {
            let device = device.address();
            return Err(ActionError::NoReset { device });
        }
        self.reset_tdi(region)?;
        self.revoke_device(region);
        device.map_or(Ok(()), ResetDevice::reset_and_decode)?;
        Ok(())
    }

    fn assigned(&self, region: RegionId) -> Option<Arc<AssignedDevice>> {
        let region = self.model.tree().region(region).ok()?;
        region.handle().assigned.clone()
    }

    /// Revokes the accepted pages of all BARs of the device that the region belongs to.
    fn revoke_device(&mut self, region: usize) {
        let region = self.regions[region];
        let device = self.assigned(region);
        let is_of_it = |other: RegionId| match (&device, self.assigned(other)) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, &other),
            _ => other == region,
        };
        let bars: Vec<RegionId> = self
            .regions
            .iter()
            .copied()
            .filter(|&id| is_of_it(id))
            .collect();
        // Where they show: an alias can show them elsewhere, and a region can hide them.
        let tree = self.model.tree();
        let is_piece = |id: RegionId| {
            let place = tree.place(id).ok().flatten();
            bars.contains(&id) || place.is_some_and(|place| bars.contains(&place.parent))
        };
        let view = self.model.view(self.space);
        let shown = view.ranges().filter(|run| is_piece(run.id()));
        let shown: Vec<AddrRange> = shown.map(FlatRange::range).collect();
        for range in shown {
            self.revoke(range);
        }
    }

    /// Accesses memory through its host address, if it has one.
    fn host(
        &self,
        gpa: u64,
        size: usize,
        access: impl FnOnce(&crate::board::handle::Host, u64, usize) -> std::io::Result<()>,
    ) -> Result<(), ActionError> {
        let range = self.supported(GpaRange {
            gpa,
            size: size as u64,
        })?;
        let view = self.model.view(self.space);
        let run = view.find(gpa).filter(|run| run.range().covers(range));
        let found =
            run.and_then(|run| Some((run.region().handle().host.clone()?, run.offset_of(gpa)?)));
        let nowhere = ActionError::NoHostAddress { gpa };
        let Some((host, offset)) = found else {
            return Err(nowhere);
        };
        access(&host, offset, size).map_err(|_| nowhere)
    }
}

#[cfg(test)]
mod tests {
    use kvm_slots::AbiProfile;
    use kvm_slots::sim::KernelVersion;

    use super::*;
    use crate::backend::sim::Sim;
    use crate::machine::Machine;

    /// A device that may not have a reset.
    struct Fake {
        can_reset: bool,
    }

    impl ResetDevice for Fake {
        fn address(&self) -> PciAddress {
            "0000:01:00.0".parse().unwrap()
        }

        fn can_reset(&self) -> bool {
            self.can_reset
        }

        fn reset_and_decode(&self) -> Result<(), DeviceError> {
            Ok(())
        }
    }

    #[test]
    fn only_a_reset_that_can_happen_revokes_what_the_guest_has_accepted() {
        let text = r#"
            region = [{ name = "bar", kind = "bar", at = 0, size = "64K",
                        private = [{ at = 0, size = "64K" }] }]
        "#;
        let machine = Machine::from_text("m.toml", text).unwrap();
        let sim = Sim::new(&machine, KernelVersion::V7_3, AbiProfile::FD_OFFSET_BIT_4);
        let mut board = Board::new(&machine, &sim).unwrap();
        let span = GpaRange {
            gpa: 0,
            size: 0x1_0000,
        };
        board.perform(&ActionKind::Accept(span)).unwrap();
        let mut left = |can_reset| {
            let done = board.reset_with(1, Some(&Fake { can_reset }));
            let accepted = board.model.accepted(board.space).iter().count();
            (done.map_err(|error| error.code()), accepted)
        };
        assert_eq!(left(false), (Err(ErrorCode::Device), 1));
        assert_eq!(left(true), (Ok(()), 0));
    }
}
