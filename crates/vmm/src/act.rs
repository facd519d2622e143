// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the VMM does while the guest runs.

use std::sync::Arc;

use kvm_slots::{
    ConvertError, FollowError, ModelPages, PageRange, PageState, PlanError, Request, RequestError,
    Unsupported, Vm,
};
use memory_model::{AddrRange, CommitError, PAGE_SIZE, RegionId, Transaction, TreeError};
use vfio_private::device::DeviceError;

use crate::assigned::AssignedDevice;
use crate::board::Board;
use crate::causes::with_causes;
use crate::handle::Handle;
use crate::machine::{ActionKind, ErrorCode, GpaRange};

/// Why an action was not carried out. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ActError {
    /// This kernel could not be given the region that is meant.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The region tree does not allow it.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The view could not change.
    #[error("{}", with_causes(.0))]
    Commit(#[from] CommitError),
    /// The pages could not change hands.
    #[error(transparent)]
    Convert(ConvertError),
    /// The device refused.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// There is no host address to reach the bytes through.
    #[error("there is no host address at {gpa:#x}")]
    NoHostAddress {
        /// The guest-physical address.
        gpa: u64,
    },
}

impl ActError {
    /// What machine files and reports call the error.
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
            Self::Device(_) => ErrorCode::Device,
            Self::NoHostAddress { .. } => ErrorCode::NoHostAddress,
        }
    }
}

impl From<ConvertError> for ActError {
    fn from(error: ConvertError) -> Self {
        match error {
            ConvertError::Unsupported(why) => Self::Unsupported(why),
            error => Self::Convert(error),
        }
    }
}

impl From<RequestError> for ActError {
    fn from(error: RequestError) -> Self {
        Self::Convert(error.into())
    }
}

impl<V: Vm + Clone + Send + Sync + 'static> Board<V> {
    /// Carries an action out. Returns the value that a host read gave.
    ///
    /// # Errors
    /// [`ActError`]; nothing has changed then.
    pub fn act(&mut self, what: &ActionKind) -> Result<Option<u64>, ActError> {
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
                self.revoke(range);
            }
            ActionKind::Decode { region, on } => self.decode(region, on)?,
            ActionKind::Reset { region } => self.reset(region)?,
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

    /// One change of one region as a transaction. A region that this kernel
    /// could not be given has a reservation in its place, which changes for it.
    fn change(
        &mut self,
        region: usize,
        change: impl FnOnce(&mut Transaction<'_, Handle>, RegionId) -> Result<(), TreeError>,
    ) -> Result<(), ActError> {
        let id = self.regions[region];
        let mut transaction = self.model.transaction();
        change(&mut transaction, id)?;
        Ok(transaction.commit()?)
    }

    /// Pages change hands: in the model, for KVM, and their stale side goes.
    /// Returns how many bytes did.
    pub(crate) fn convert(&mut self, request: Request) -> Result<u64, ActError> {
        let mut pages = ModelPages::new(&mut self.model, self.space);
        // Stale bytes that the host would not give up would show as such in
        // the next step of the script.
        Ok(self.engine.convert(&mut pages, request)?.bytes)
    }

    /// The guest makes shared what it has accepted of these pages, and nothing
    /// else.
    fn give_back(&mut self, span: GpaRange) -> Result<(), ActError> {
        let range = self.supported(span)?;
        PageRange::new(span.gpa, span.size)?;
        for part in self.model.accepted(self.space).clipped(range).iter() {
            let size = part.last() - part.start() + 1;
            self.convert(Request::new(part.start(), size, PageState::Shared)?)?;
        }
        Ok(())
    }

    /// The addresses, unless this kernel could not be given what is there.
    fn supported(&self, span: GpaRange) -> Result<AddrRange, ActError> {
        let range = AddrRange::new(span.gpa, span.size.into());
        let range = range.ok_or(ActError::NoHostAddress { gpa: span.gpa })?;
        let view = self.model.view(self.space);
        let mut runs = view.intersecting(range);
        match runs.find_map(|run| run.region().handle().refused) {
            Some(why) => Err(why.into()),
            None => Ok(range),
        }
    }

    /// The guest loses what it has accepted of these pages.
    fn revoke(&mut self, range: AddrRange) {
        if let Some(range) = touched_pages(range) {
            let mut pages = ModelPages::new(&mut self.model, self.space);
            // Whether the pages are shared for KVM matters no more than
            // the device behind them, which is gone.
            let _ = self.engine.revoke(&mut pages, range);
        }
    }

    /// A device stops answering at its BARs, or answers again. What was accepted
    /// is revoked first, so that the guest reaches nothing stale.
    fn decode(&mut self, region: usize, on: bool) -> Result<(), ActError> {
        if !on {
            self.revoke_device(region);
        }
        if let Some(assigned) = self.assigned(self.regions[region]) {
            assigned.device().set_memory_decode(on)?;
        }
        Ok(())
    }

    /// A device starts anew, and answers then: what a guest does next.
    fn reset(&mut self, region: usize) -> Result<(), ActError> {
        self.revoke_device(region);
        if let Some(assigned) = self.assigned(self.regions[region]) {
            assigned.device().reset()?;
            assigned.device().set_memory_decode(true)?;
        }
        Ok(())
    }

    fn assigned(&self, region: RegionId) -> Option<Arc<AssignedDevice>> {
        let region = self.model.tree().region(region).ok()?;
        region.handle().assigned.clone()
    }

    /// All BARs of the device whose BAR the region is.
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
        for bar in bars {
            let (parent, at) = self.place(bar);
            let size = self.model.tree().region(bar).map_or(0, |bar| bar.size());
            if let Some(range) = AddrRange::new(parent.saturating_add(at), size) {
                self.revoke(range);
            }
        }
    }

    /// Reaches memory through its host address, if it has one.
    fn host(
        &self,
        gpa: u64,
        size: usize,
        access: impl FnOnce(&crate::handle::Host, u64, usize) -> std::io::Result<()>,
    ) -> Result<(), ActError> {
        let range = self.supported(GpaRange {
            gpa,
            size: size as u64,
        })?;
        let view = self.model.view(self.space);
        let run = view.find(gpa).filter(|run| run.range().covers(range));
        let found =
            run.and_then(|run| Some((run.region().handle().host.clone()?, run.offset_of(gpa)?)));
        let nowhere = ActError::NoHostAddress { gpa };
        let Some((host, offset)) = found else {
            return Err(nowhere);
        };
        access(&host, offset, size).map_err(|_| nowhere)
    }
}

/// All pages that a range touches but the very last one of the 64-bit space,
/// which no conversion reaches.
fn touched_pages(range: AddrRange) -> Option<PageRange> {
    let start = range.start() / PAGE_SIZE * PAGE_SIZE;
    let end = (range.last() / PAGE_SIZE).saturating_add(1);
    let end = end.saturating_mul(PAGE_SIZE) / PAGE_SIZE * PAGE_SIZE;
    PageRange::new(start, end.checked_sub(start)?).ok()
}
