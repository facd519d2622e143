// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the VMM does while the guest runs.

use kvm_slots::{FollowError, MEMORY_ATTRIBUTE_PRIVATE, PlanError, Unsupported, Vm};
use memory_model::{
    AddrRange, CommitError, PageState, RegionId, StateError, Transaction, TreeError,
};

use crate::board::Board;
use crate::causes::with_causes;
use crate::handle::Handle;
use crate::machine::{ActionKind, ErrorCode, Span};

/// Why an action was not carried out. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
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
    /// The pages are of another kind.
    #[error(transparent)]
    State(#[from] StateError),
    /// KVM did not change the pages' attributes.
    #[error("KVM_SET_MEMORY_ATTRIBUTES: {0}")]
    Attributes(kvm_slots::Errno),
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
                _ => ErrorCode::Kvm,
            },
            Self::State(StateError::WrongKind { .. }) => ErrorCode::WrongKind,
            Self::State(StateError::Unaligned { .. }) => ErrorCode::Unaligned,
            Self::Attributes(_) => ErrorCode::Kvm,
            Self::NoHostAddress { .. } => ErrorCode::NoHostAddress,
        }
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
                let range = self.supported(span)?;
                self.model.accept(self.space, range)?;
            }
            ActionKind::GiveBack(span) => {
                let range = self.supported(span)?;
                self.model.give_back(self.space, range)?;
            }
            ActionKind::Revoke(span) => {
                let range = self.supported(span)?;
                self.model.revoke(self.space, range);
            }
            ActionKind::Convert { span, private } => self.convert(span, private)?,
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

    /// Pages become private or shared: first in the model, which refuses what
    /// has no private side, then for KVM. What KVM refuses is taken back.
    fn convert(&mut self, span: Span, private: bool) -> Result<(), ActError> {
        let range = self.supported(span)?;
        let was_private = self.model.private(self.space).clipped(range);
        let was_accepted = self.model.accepted(self.space).clipped(range);
        let (state, attributes) = match private {
            true => (PageState::Private, MEMORY_ATTRIBUTE_PRIVATE),
            false => (PageState::Shared, 0),
        };
        self.model.set_page_state(self.space, range, state)?;
        let set = self
            .slots
            .vm()
            .set_memory_attributes(span.gpa, span.size, attributes);
        let Err(errno) = set else { return Ok(()) };
        // Back to what KVM still has: all of it was of the right kind a moment
        // ago.
        let _ = self
            .model
            .set_page_state(self.space, range, PageState::Shared);
        for range in was_private.iter() {
            let _ = self
                .model
                .set_page_state(self.space, range, PageState::Private);
        }
        for range in was_accepted.iter() {
            let _ = self.model.accept(self.space, range);
        }
        Err(ActError::Attributes(errno))
    }

    /// The addresses, unless this kernel could not be given what is there.
    fn supported(&self, span: Span) -> Result<AddrRange, ActError> {
        let range = AddrRange::new(span.gpa, span.size.into());
        let range = range.ok_or(ActError::NoHostAddress { gpa: span.gpa })?;
        let view = self.model.view(self.space);
        let mut runs = view.intersecting(range);
        match runs.find_map(|run| run.region().handle().refused) {
            Some(why) => Err(why.into()),
            None => Ok(range),
        }
    }

    /// Reaches memory through its host address, if it has one.
    fn host(
        &self,
        gpa: u64,
        size: usize,
        access: impl FnOnce(&crate::host_mapping::HostMapping, u64, usize) -> std::io::Result<()>,
    ) -> Result<(), ActError> {
        let range = self.supported(Span {
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
