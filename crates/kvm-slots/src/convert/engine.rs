// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Carrying conversions out, and rolling them back.

use std::fmt;
use std::sync::Arc;

use super::error::{
    ConversionFailure, ConvertError, Converted, FailedStep, NotConvertedBack, Revoked,
};
use super::listener::{Conversion, ConversionListener, abort};
use super::pages::GuestPages;
use super::plan::{ConversionPlan, check, part};
use super::request::{Request, RequestError};
use super::sides::{Sides, Stretch};
use crate::abi::Unsupported;
use crate::caps::Capabilities;
use crate::errno::Errno;
use crate::uapi::MEMORY_ATTRIBUTE_PRIVATE;
use crate::vm::Vm;
use guest_ranges::PageRange;
use guest_ranges::PageState;

/// Carries conversions out on a VM whose pages are known elsewhere.
///
/// [`Converter`](crate::convert::Converter) is an engine together with the pages,
/// behind a lock.
pub struct Engine<V> {
    vm: V,
    page_size: u64,
    /// Whether pages of this VM can be private.
    private_pages: bool,
    listeners: Vec<Arc<dyn ConversionListener>>,
}

impl<V> fmt::Debug for Engine<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listeners = self.listeners.iter().map(|l| l.name());
        write!(f, "Engine(listeners {:?})", listeners.collect::<Vec<_>>())
    }
}

/// How far a plan was carried out.
#[derive(Clone, Copy)]
struct Got {
    /// How many listeners have prepared.
    prepared: usize,
    /// Whether the attributes have changed.
    attributes: bool,
}

/// A step failed.
struct Failed {
    cause: FailedStep,
    got: Got,
}

impl<V: Vm> Engine<V> {
    /// Converts pages of `vm`.
    pub fn new(vm: V) -> Self {
        let capabilities = Capabilities::probe(&vm);
        Self {
            vm,
            page_size: capabilities.page_size,
            private_pages: capabilities.memory_attributes & MEMORY_ATTRIBUTE_PRIVATE != 0,
            listeners: Vec::new(),
        }
    }

    /// Has `listener` follow all conversions, after those that do already.
    pub fn add_listener(&mut self, listener: Arc<dyn ConversionListener>) {
        self.listeners.push(listener);
    }

    /// The VM.
    pub fn vm(&self) -> &V {
        &self.vm
    }

    /// Converts what `request` asks for: all of it, or nothing.
    ///
    /// # Errors
    /// [`ConvertError`].
    pub fn convert(
        &self,
        pages: &mut impl GuestPages,
        request: Request,
    ) -> Result<Converted, ConvertError> {
        let range = request.range();
        self.require_host_pages(range)?;
        self.require_private_pages(pages, request)?;
        check(pages, request)?;

        let first = part(pages, range, request.to());
        let mut rest = self.switch_or_undo(pages, &first, range, range.start())?;
        while let Some(from) = rest {
            let plan = part(pages, from, request.to());
            rest = self.switch_or_undo(pages, &plan, range, from.start())?;
        }
        // The state is as it was, so that later parts are found again.
        let mut converted = Converted::default();
        self.settle(pages, &first, &mut converted);
        let mut rest = first.rest;
        while let Some(from) = rest {
            let plan = part(pages, from, request.to());
            self.settle(pages, &plan, &mut converted);
            rest = plan.rest;
        }
        Ok(converted)
    }

    /// The host takes back what the guest has accepted of `range`: the device
    /// was reset or unplugged, or stopped decoding. Listeners are notified, and so
    /// must the guest be. The pages are shared then: the guest has to accept
    /// them again.
    pub fn revoke(&self, pages: &mut impl GuestPages, range: PageRange) -> Revoked {
        let mut revoked = Revoked::default();
        // One by one: a guest chooses how many there are, and each takes away
        // what the next search would find.
        loop {
            let lost = pages.accepted(range).next();
            let Some(lost) = lost else { return revoked };
            pages.revoke(lost);
            revoked.bytes += lost.size();
            match self.set_attributes(lost, PageState::Shared) {
                Ok(()) => pages.record(lost, PageState::Shared),
                Err(errno) => revoked.not_shared.add(lost, errno),
            }
            for listener in &self.listeners {
                listener.revoked(lost);
            }
        }
    }

    /// KVM knows no smaller pages than the host's.
    fn require_host_pages(&self, range: PageRange) -> Result<(), RequestError> {
        let whole = |n: u64| n % self.page_size == 0;
        let (gpa, size) = (range.start(), range.size());
        match whole(gpa) && whole(size) {
            true => Ok(()),
            false => Err(RequestError::Unaligned { gpa, size }),
        }
    }

    /// Without private pages a guest can still accept private MMIO: that is
    /// recorded, and KVM is not notified.
    fn require_private_pages(
        &self,
        pages: &impl GuestPages,
        request: Request,
    ) -> Result<(), Unsupported> {
        if self.private_pages || request.to() == PageState::Shared {
            return Ok(());
        }
        let mut memory = pages.memory(request.range());
        match memory.all(|stretch| stretch.sides == Sides::PrivateMmio) {
            true => Ok(()),
            false => Err(Unsupported::NoPrivatePages),
        }
    }

    /// Carries one part of a request for `range` out; if a step fails, takes
    /// back everything up to there. Returns what is left of the request.
    fn switch_or_undo(
        &self,
        pages: &mut impl GuestPages,
        plan: &ConversionPlan,
        range: PageRange,
        reached: u64,
    ) -> Result<Option<PageRange>, ConvertError> {
        let Err(failed) = self.switch(plan) else {
            return Ok(plan.rest);
        };
        let mut not_undone = NotConvertedBack::default();
        self.roll_back(pages, plan, failed.got, &mut not_undone);
        if let Some(done) = PageRange::between(range.start(), reached) {
            self.undo(pages, done, plan.to, &mut not_undone);
        }
        Err(ConvertError::Failed(Box::new(ConversionFailure {
            range,
            cause: failed.cause,
            not_undone,
        })))
    }

    /// The guest changes sides, and the listeners with it. Pages are mapped for
    /// devices only while the guest has them as shared: listeners come first
    /// on the way to private, and last on the way to shared.
    fn switch(&self, plan: &ConversionPlan) -> Result<(), Failed> {
        let Some(span) = plan.span() else {
            return Ok(());
        };
        let attributes = |prepared| {
            let set = self.set_attributes(span, plan.to);
            set.map_err(|errno| Failed {
                cause: FailedStep::Attributes { range: span, errno },
                got: Got {
                    prepared,
                    attributes: false,
                },
            })
        };
        match plan.to {
            PageState::Private => {
                self.prepare(plan, false)?;
                attributes(self.listeners.len())
            }
            PageState::Shared => {
                attributes(0)?;
                self.prepare(plan, true)
            }
        }
    }

    fn prepare(&self, plan: &ConversionPlan, attributes: bool) -> Result<(), Failed> {
        let Some(change) = Conversion::of(plan.to, &plan.stretches, &plan.unbacked) else {
            return Ok(());
        };
        for (prepared, listener) in self.listeners.iter().enumerate() {
            listener.prepare(&change).map_err(|source| Failed {
                cause: FailedStep::Listener {
                    name: listener.name().to_string(),
                    source,
                },
                got: Got {
                    prepared,
                    attributes,
                },
            })?;
        }
        Ok(())
    }

    /// Nothing can go wrong any more that would have to be undone: stale bytes
    /// are discarded, the state is recorded, listeners are notified.
    fn settle(
        &self,
        pages: &mut impl GuestPages,
        plan: &ConversionPlan,
        converted: &mut Converted,
    ) {
        for (range, discard) in plan.discards() {
            // SAFETY: `pages` vouches for the memory and the files of its
            // stretches (`GuestPages`). Their bytes are stale: the guest has the
            // other side of these pages now, and no device is left on this one.
            if let Err(errno) = unsafe { self.vm.discard(discard) } {
                converted.not_discarded.add(range, errno);
            }
        }
        for range in plan.changes() {
            pages.record(range, plan.to);
            converted.bytes += range.size();
        }
        accept(pages, plan.to, &plan.stretches);
        let Some(change) = Conversion::of(plan.to, &plan.stretches, &plan.unbacked) else {
            return;
        };
        for listener in &self.listeners {
            listener.commit(&change);
        }
    }

    /// Rolls back what was done to `range`, all of it.
    fn undo(
        &self,
        pages: &mut impl GuestPages,
        range: PageRange,
        to: PageState,
        not_undone: &mut NotConvertedBack,
    ) {
        let all = Got {
            prepared: self.listeners.len(),
            attributes: true,
        };
        let mut rest = Some(range);
        while let Some(from) = rest {
            let plan = part(pages, from, to);
            self.roll_back(pages, &plan, all, not_undone);
            rest = plan.rest;
        }
    }

    /// Rolls back what was done of one plan. Pages that KVM does not change
    /// back have changed hands; that is written down, and listeners follow.
    fn roll_back(
        &self,
        pages: &mut impl GuestPages,
        plan: &ConversionPlan,
        got: Got,
        not_undone: &mut NotConvertedBack,
    ) {
        let prepared = &self.listeners[..got.prepared];
        // Devices leave before the guest's pages become private again.
        let mut stuck = Vec::new();
        if plan.to == PageState::Shared {
            let change = Conversion::of(plan.to, &plan.stretches, &plan.unbacked);
            stuck = abort(prepared, change, not_undone);
        }
        let (mut back, mut kept, mut kept_unbacked) = (Vec::new(), Vec::new(), Vec::new());
        for stretch in &plan.stretches {
            match self.attributes_back(pages, stretch.range, plan.to, got, not_undone) {
                true => back.push(*stretch),
                false => kept.push(*stretch),
            }
        }
        for &range in &plan.unbacked {
            if !self.attributes_back(pages, range, plan.to, got, not_undone) {
                kept_unbacked.push(range);
            }
        }
        if plan.to == PageState::Private {
            abort(prepared, Conversion::of(plan.to, &back, &[]), not_undone);
        }
        accept(pages, plan.to, &kept);
        let Some(change) = Conversion::of(plan.to, &kept, &kept_unbacked) else {
            return;
        };
        for (number, listener) in self.listeners.iter().enumerate() {
            // Who could not go back has these pages already, and is named.
            if stuck.contains(&number) {
                continue;
            }
            let prepared = match plan.to {
                PageState::Private => Ok(()),
                PageState::Shared => listener.prepare(&change),
            };
            match prepared {
                Ok(()) => listener.commit(&change),
                Err(error) => not_undone.add_listener(listener.name(), error),
            }
        }
    }

    /// Whether the pages are what they were.
    fn attributes_back(
        &self,
        pages: &mut impl GuestPages,
        range: PageRange,
        to: PageState,
        got: Got,
        not_undone: &mut NotConvertedBack,
    ) -> bool {
        if !got.attributes {
            return true;
        }
        let Err(errno) = self.set_attributes(range, to.other()) else {
            return true;
        };
        not_undone.attributes.add(range, errno);
        pages.record(range, to);
        false
    }

    fn set_attributes(&self, range: PageRange, to: PageState) -> Result<(), Errno> {
        let attributes = match to {
            PageState::Private => MEMORY_ATTRIBUTE_PRIVATE,
            PageState::Shared => 0,
        };
        match self.private_pages {
            true => self
                .vm
                .set_memory_attributes(range.start(), range.size(), attributes),
            false => Ok(()),
        }
    }
}

/// Private MMIO that has become private is accepted.
fn accept(pages: &mut impl GuestPages, to: PageState, stretches: &[Stretch]) {
    let registers = stretches.iter().filter(|s| s.sides == Sides::PrivateMmio);
    for stretch in registers.filter(|_| to == PageState::Private) {
        pages.accept(stretch.range);
    }
}
