// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One engine for all vCPU threads.

use std::sync::{Arc, Mutex, MutexGuard};

use super::engine::Engine;
use super::error::{ConvertError, Converted, Revoked};
use super::listener::ConversionListener;
use super::pages::GuestPages;
use super::request::Request;
use crate::vm::Vm;
use guest_ranges::PageRange;

/// Converts pages of a VM for its vCPU threads, one request at a time.
///
/// One lock around all of it is enough: KVM changes attributes under a lock of
/// the VM too (`slots_lock`, in `kvm_vm_set_mem_attributes`). And it has to be
/// around the discards: what one thread discards as stale, another could just
/// have made current.
#[derive(Debug)]
pub struct Converter<V, P> {
    engine: Engine<V>,
    pages: Mutex<P>,
}

impl<V: Vm, P: GuestPages> Converter<V, P> {
    /// Converts pages of `vm`, of which `pages` knows.
    pub fn new(vm: V, pages: P) -> Self {
        Self {
            engine: Engine::new(vm),
            pages: Mutex::new(pages),
        }
    }

    /// Has `listener` follow all conversions, after those that do already.
    pub fn add_listener(&mut self, listener: Arc<dyn ConversionListener>) {
        self.engine.add_listener(listener);
    }

    /// The VM.
    pub fn vm(&self) -> &V {
        self.engine.vm()
    }

    /// The guest called `KVM_HC_MAP_GPA_RANGE`, with these three arguments.
    ///
    /// Return 0 to it, or [`ConvertError::hypercall_return`].
    ///
    /// # Errors
    /// [`ConvertError`]
    pub fn hypercall(
        &self,
        gpa: u64,
        pages: u64,
        attributes: u64,
    ) -> Result<Converted, ConvertError> {
        self.convert(Request::hypercall(gpa, pages, attributes)?)
    }

    /// `KVM_RUN` ended with `KVM_EXIT_MEMORY_FAULT` and EFAULT.
    ///
    /// Run the vCPU again: its access will now succeed. Another vCPU may have
    /// made the conversion meanwhile, and then this one changes nothing.
    ///
    /// # Errors
    /// [`ConvertError`]: running the vCPU again would end in the same fault.
    /// The guest has touched what cannot be what it takes it for.
    pub fn memory_fault(&self, flags: u64, gpa: u64, size: u64) -> Result<Converted, ConvertError> {
        self.convert(Request::memory_fault(flags, gpa, size)?)
    }

    /// Converts what `request` asks for: all of it, or nothing.
    ///
    /// # Errors
    /// [`ConvertError`]
    pub fn convert(&self, request: Request) -> Result<Converted, ConvertError> {
        self.engine.convert(&mut *self.lock()?, request)
    }

    /// The host takes back what the guest has accepted of `range`:
    /// [`Engine::revoke`].
    ///
    /// # Errors
    /// [`ConvertError::CutShort`].
    pub fn revoke(&self, range: PageRange) -> Result<Revoked, ConvertError> {
        Ok(self.engine.revoke(&mut *self.lock()?, range))
    }

    /// Looks at the pages, or changes what memory there is, while no
    /// conversion is under way. `look` must not convert.
    ///
    /// # Errors
    /// [`ConvertError::CutShort`].
    pub fn with_pages<R>(&self, look: impl FnOnce(&mut P) -> R) -> Result<R, ConvertError> {
        Ok(look(&mut *self.lock()?))
    }

    /// A panic in the middle of a conversion leaves attributes and state apart,
    /// so that nothing can be built on them.
    fn lock(&self) -> Result<MutexGuard<'_, P>, ConvertError> {
        self.pages.lock().map_err(|_| ConvertError::CutShort)
    }
}
