// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Carries out the guest's requests to convert pages, for all vCPUs.

use std::sync::Arc;

use kvm_slots::KvmVm;
use kvm_slots::convert::{
    ConvertError, Converted, Engine, ModelPages, PageRange, PageState, Request, RequestError,
};
use memory_model::AddrRange;

use super::bus::GuestSpaces;
use super::dma::DmaCheck;
use super::notes::Notes;

/// Converts pages in the model, in KVM, and for devices.
#[derive(Debug)]
pub struct Conversions {
    spaces: GuestSpaces,
    engine: Engine<KvmVm>,
    dma: Option<Arc<DmaCheck>>,
    notes: Notes,
}

impl Conversions {
    /// Converts by `engine`, which has its listeners, among them `dma`.
    pub fn new(
        spaces: GuestSpaces,
        engine: Engine<KvmVm>,
        dma: Option<Arc<DmaCheck>>,
        notes: Notes,
    ) -> Self {
        Self {
            spaces,
            engine,
            dma,
            notes,
        }
    }

    /// What devices reach by DMA; `None` without assigned devices.
    pub fn dma(&self) -> Option<&DmaCheck> {
        self.dma.as_deref()
    }

    /// The hypercall `KVM_HC_MAP_GPA_RANGE`. Returns its result for the guest.
    pub fn hypercall(&self, gpa: u64, pages: u64, attributes: u64) -> u64 {
        let request = Request::hypercall(gpa, pages, attributes);
        let error = match request.map_err(ConvertError::from) {
            Ok(request) => match self.convert(request) {
                Ok(_) => return 0,
                Err(error) => error,
            },
            Err(error) => error,
        };
        error.hypercall_return().cast_unsigned()
    }

    /// Converts all pages of a request, or none. Notes what the guest cannot see of a failure.
    ///
    /// # Errors
    /// [`ConvertError`].
    pub fn convert(&self, request: Request) -> Result<Converted, ConvertError> {
        let mut model = self.spaces.model();
        let mut pages = ModelPages::new(&mut *model, self.spaces.memory);
        let result = self.engine.convert(&mut pages, request);
        drop(model);
        if let Some(note) = note(&result) {
            self.notes.add(note);
        }
        result
    }

    /// `KVM_EXIT_MEMORY_FAULT` in words. A guest has to ask before it accesses a page
    /// in its other state, so that nothing is converted here.
    pub fn memory_fault(&self, flags: u64, gpa: u64, size: u64) -> String {
        let view = self.spaces.model().view(self.spaces.memory);
        let region = view.find(gpa).map_or("nothing", |run| run.region().name());
        let expected = Request::memory_fault(flags, gpa, size).map(Request::to);
        let why = match expected {
            Ok(PageState::Private) => "which the guest has not accepted",
            Ok(PageState::Shared) => "which is private",
            Err(RequestError::Flags { .. }) => "for a reason that KVM does not explain",
            Err(_) => "and KVM's exit has no pages",
        };
        format!("a memory fault at {gpa:#x} in {region}, {why} (flags {flags:#x})")
    }

    /// Revokes the pages of `range` that the guest has accepted: their device is about
    /// to stop responding.
    pub fn revoke(&self, range: AddrRange) {
        let Some(pages) = PageRange::touching(range) else {
            return;
        };
        let mut model = self.spaces.model();
        let mut state = ModelPages::new(&mut *model, self.spaces.memory);
        let revoked = self.engine.revoke(&mut state, pages);
        if revoked.bytes != 0 {
            self.notes.add(format!(
                "{:#x} bytes at {:#x} were revoked: the device does not respond",
                revoked.bytes,
                range.start()
            ));
        }
        if !revoked.not_shared.is_empty() {
            self.notes.add(format!(
                "KVM takes them for private: {}",
                revoked.not_shared
            ));
        }
    }
}

/// What the user should know of a conversion. The guest learns from its return value that a
/// request is invalid or refused.
fn note(result: &Result<Converted, ConvertError>) -> Option<String> {
    match result {
        Ok(converted) if !converted.not_discarded.is_empty() => Some(format!(
            "the stale side of converted pages was not discarded: {}",
            converted.not_discarded
        )),
        Err(error @ (ConvertError::Failed(_) | ConvertError::CutShort)) => {
            let error = crate::with_causes(error);
            Some(format!("a conversion for the guest failed: {error}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_were_not_discarded_are_noted() {
        let mut converted = Converted::default();
        converted.bytes = 0x4000;
        assert_eq!(note(&Ok(converted)), None);
        converted.not_discarded.bytes = 0x2000;
        let note = note(&Ok(converted)).unwrap();
        assert!(note.contains("not discarded: "), "{note}");
    }

    #[test]
    fn a_conversion_that_failed_is_noted_and_an_invalid_one_is_not() {
        let failed = note(&Err(ConvertError::CutShort)).unwrap();
        assert!(
            failed.starts_with("a conversion for the guest failed: "),
            "{failed}"
        );
        let invalid = Request::new(1, 1, PageState::Shared).unwrap_err();
        assert_eq!(note(&Err(invalid.into())), None);
    }
}
