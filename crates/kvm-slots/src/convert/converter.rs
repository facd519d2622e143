// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Combines an engine with the pages, for all vCPU threads.

use std::sync::{Arc, Mutex, MutexGuard};

use super::engine::Engine;
use super::error::{ConvertError, Converted, Revoked};
use super::home::Home;
use super::listener::ConversionListener;
use super::pages::GuestPages;
use super::pre_fault::{PreFault, pre_fault};
use super::request::Request;
use crate::vm::Vm;
use guest_ranges::PageRange;

/// Converts pages of a VM for its vCPU threads, one request at a time.
///
/// One lock is enough: KVM also changes attributes under a lock of the VM
/// (`slots_lock`, in `kvm_vm_set_mem_attributes`). The lock must include the
/// discards. Otherwise one thread could discard bytes that another thread has just
/// made current.
#[derive(Debug)]
pub struct Converter<V, P> {
    engine: Engine<V>,
    pages: Mutex<P>,
}

impl<V: Vm, P: GuestPages> Converter<V, P> {
    /// Converts pages of `vm`. `pages` records their state, which is in `home`
    /// ([`Home::probe`]).
    pub fn new(vm: V, home: Home, pages: P) -> Self {
        Self {
            engine: Engine::new(vm, home),
            pages: Mutex::new(pages),
        }
    }

    /// Adds a listener, which is called after all earlier ones.
    pub fn add_listener(&mut self, listener: Arc<dyn ConversionListener>) {
        self.engine.add_listener(listener);
    }

    /// Removes a listener: [`Engine::remove_listener`].
    pub fn remove_listener<L: ConversionListener + ?Sized>(&mut self, listener: &Arc<L>) -> bool {
        self.engine.remove_listener(listener)
    }

    /// The VM.
    pub fn vm(&self) -> &V {
        self.engine.vm()
    }

    /// Handles the hypercall `KVM_HC_MAP_GPA_RANGE` with these three arguments.
    ///
    /// Return 0 to the guest, or [`ConvertError::hypercall_return`].
    ///
    /// # Errors
    /// [`ConvertError`]
    ///
    /// # Panics
    /// As for [`convert`](Self::convert).
    pub fn hypercall(
        &self,
        gpa: u64,
        pages: u64,
        attributes: u64,
    ) -> Result<Converted, ConvertError> {
        self.convert(Request::hypercall(gpa, pages, attributes)?)
    }

    /// Handles `KVM_EXIT_MEMORY_FAULT` with EFAULT from `KVM_RUN`.
    ///
    /// Run the vCPU again after success: its access will succeed. If another vCPU
    /// has already converted the pages, this call changes nothing.
    ///
    /// # Errors
    /// [`ConvertError`]: the vCPU would fault again, because the pages cannot
    /// change to the state that the guest expects.
    ///
    /// # Panics
    /// As for [`convert`](Self::convert).
    pub fn memory_fault(&self, flags: u64, gpa: u64, size: u64) -> Result<Converted, ConvertError> {
        self.convert(Request::memory_fault(flags, gpa, size)?)
    }

    /// Converts all pages that `request` names, or none.
    ///
    /// # Errors
    /// [`ConvertError`]
    ///
    /// # Panics
    /// If a listener panics, after the conversion is complete or rolled back. Later calls
    /// return [`ConvertError::CutShort`].
    pub fn convert(&self, request: Request) -> Result<Converted, ConvertError> {
        self.engine.convert(&mut *self.lock()?, request)
    }

    /// Converts like [`convert`](Self::convert), and then maps the pages for `vcpu`, whose
    /// guest made the request: [`Engine::convert_and_pre_fault`]. Other threads can
    /// convert pages while they are mapped.
    ///
    /// # Errors
    /// [`ConvertError`]
    ///
    /// # Panics
    /// If a listener panics, after the conversion is complete or rolled back. Later calls
    /// return [`ConvertError::CutShort`].
    pub fn convert_and_pre_fault(
        &self,
        request: Request,
        vcpu: &impl PreFault,
    ) -> Result<Converted, ConvertError> {
        let mut pages = self.lock()?;
        let converted = self.engine.convert(&mut *pages, request)?;
        let ranges = self.engine.to_pre_fault(&mut *pages, request, &converted);
        drop(pages);
        Ok(Converted {
            not_pre_faulted: pre_fault(vcpu, ranges),
            ..converted
        })
    }

    /// Revokes the pages of `range` that the guest has accepted:
    /// [`Engine::revoke`].
    ///
    /// # Errors
    /// [`ConvertError::CutShort`].
    ///
    /// # Panics
    /// As for [`Engine::revoke`]. Later calls return [`ConvertError::CutShort`].
    pub fn revoke(&self, range: PageRange) -> Result<Revoked, ConvertError> {
        Ok(self.engine.revoke(&mut *self.lock()?, range))
    }

    /// Calls `look` with the pages, to read or change them while no conversion is in
    /// progress. `look` must not convert.
    ///
    /// # Errors
    /// [`ConvertError::CutShort`].
    pub fn with_pages<R>(&self, look: impl FnOnce(&mut P) -> R) -> Result<R, ConvertError> {
        Ok(look(&mut *self.lock()?))
    }

    /// After a panic, attributes and record may differ ([`ConvertError::CutShort`]), so
    /// later calls are refused.
    fn lock(&self) -> Result<MutexGuard<'_, P>, ConvertError> {
        self.pages.lock().map_err(|_| ConvertError::CutShort)
    }
}
