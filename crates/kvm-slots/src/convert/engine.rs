// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Carries out conversions of a VM's pages, in parts if they are large.

use std::fmt;
use std::sync::Arc;

use guest_ranges::{PAGE_SIZE, PageRange, PageSize, PageState};

use super::check::{check, host_pages, without_private_pages};
use super::error::{
    ConversionFailure, ConvertError, Converted, FailedStep, NotChanged, NotConvertedBack, Revoked,
};
use super::home::Home;
use super::host_pages::HostPages;
use super::listener::ConversionListener;
use super::pages::GuestPages;
use super::panics::Panics;
use super::plan::{ConversionPlan, part};
use super::pre_fault::{PreFault, pre_fault};
use super::release::{Target, Unmapped};
use super::request::Request;
use super::rollback::Leftover;
use super::settle::accept;
use super::sides::{Sides, Stretch};
use super::switch::{Progress, Steps};
use crate::vm::Vm;

/// Carries out conversions of a VM's pages. The caller passes the state of the
/// pages to each call.
///
/// [`Converter`](crate::convert::Converter) combines an engine with the pages,
/// behind a lock.
pub struct Engine<V> {
    steps: Steps<V>,
    page_size: PageSize,
}

impl<V> fmt::Debug for Engine<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listeners = self.steps.listeners.iter().map(|l| l.name());
        write!(f, "Engine(listeners {:?})", listeners.collect::<Vec<_>>())
    }
}

impl<V: Vm> Engine<V> {
    /// Converts pages of `vm`, whose state is in `home` ([`Home::probe`]).
    pub fn new(vm: V, home: Home) -> Self {
        Self {
            page_size: vm.page_size(),
            steps: Steps {
                vm,
                home,
                listeners: Vec::new(),
            },
        }
    }

    /// Where the state of the pages is.
    pub fn home(&self) -> Home {
        self.steps.home
    }

    /// Adds a listener, which is called after all earlier ones.
    pub fn add_listener(&mut self, listener: Arc<dyn ConversionListener>) {
        self.steps.listeners.push(listener);
    }

    /// Removes a listener: its device is unplugged. Returns whether it was one.
    ///
    /// A listener that also follows a memory model is removed from the model first. From
    /// then on it does not know which memory its pages are, so it must follow no
    /// conversion.
    pub fn remove_listener<L: ConversionListener + ?Sized>(&mut self, listener: &Arc<L>) -> bool {
        let before = self.steps.listeners.len();
        let other = |all: &Arc<dyn ConversionListener>| {
            !std::ptr::addr_eq(Arc::as_ptr(all), Arc::as_ptr(listener))
        };
        self.steps.listeners.retain(other);
        self.steps.listeners.len() < before
    }

    /// The VM.
    pub fn vm(&self) -> &V {
        &self.steps.vm
    }

    /// Converts all pages that `request` names, or none.
    ///
    /// # Errors
    /// [`ConvertError`].
    ///
    /// # Panics
    /// If a listener panics, after the conversion is complete or rolled back.
    pub fn convert(
        &self,
        pages: &mut impl GuestPages,
        request: Request,
    ) -> Result<Converted, ConvertError> {
        let request = request.on_host(self.page_size);
        host_pages(request.range(), self.page_size)?;
        let pages = &mut HostPages::new(pages, self.page_size);
        if self.steps.home == Home::Slot {
            without_private_pages(pages, request)?;
        }
        check(pages, request)?;
        self.listeners_are_ready(request.range())?;
        let first = self.switch(pages, request)?;
        Ok(self.settle(pages, request, first))
    }

    /// Converts like [`convert`](Self::convert), and then maps the pages for `vcpu`, whose
    /// guest made the request. It also maps pages of the request that did not change.
    ///
    /// Memory that cannot be mapped does not undo the conversion: see
    /// [`Converted::not_pre_faulted`].
    ///
    /// # Errors
    /// [`ConvertError`].
    ///
    /// # Panics
    /// If a listener panics, after the conversion is complete or rolled back.
    pub fn convert_and_pre_fault(
        &self,
        pages: &mut impl GuestPages,
        request: Request,
        vcpu: &impl PreFault,
    ) -> Result<Converted, ConvertError> {
        let converted = self.convert(pages, request)?;
        let ranges = self.to_pre_fault(pages, request, &converted);
        Ok(Converted {
            not_pre_faulted: pre_fault(vcpu, ranges),
            ..converted
        })
    }

    fn listeners_are_ready(&self, range: PageRange) -> Result<(), ConvertError> {
        for listener in &self.steps.listeners {
            if let Err(source) = listener.ready() {
                let name = listener.name().to_string();
                return Err(ConvertError::Failed(Box::new(ConversionFailure {
                    range,
                    cause: FailedStep::Listener { name, source },
                    not_undone: NotConvertedBack::default(),
                })));
            }
        }
        Ok(())
    }

    /// The memory of a request that was converted; nothing if no page changed.
    pub(super) fn to_pre_fault(
        &self,
        pages: &mut impl GuestPages,
        request: Request,
        converted: &Converted,
    ) -> Vec<PageRange> {
        if converted.bytes == 0 {
            return Vec::new();
        }
        let pages = HostPages::new(pages, self.page_size);
        let memory = pages.memory(request.on_host(self.page_size).range());
        memory.map(|stretch| stretch.range).collect()
    }

    /// Makes the pages of a new VM private that `pages` records as private. Returns the
    /// number of bytes.
    ///
    /// # Errors
    /// [`ConvertError::Failed`] with the first pages that did not change; nothing is
    /// undone, because a VM that is not complete is of no use.
    pub fn restore(&self, pages: &mut impl GuestPages) -> Result<u64, ConvertError> {
        // No range of pages includes the last one.
        let Some(all) = PageRange::between(0, PAGE_SIZE.wrapping_neg()) else {
            return Ok(0);
        };
        let pages = HostPages::new(pages, self.page_size);
        let mut bytes: u64 = 0;
        for range in pages.private(all) {
            self.restore_range(&pages, range)
                .map_err(|(range, why)| ConversionFailure {
                    range,
                    cause: FailedStep::State { range, why },
                    not_undone: NotConvertedBack::default(),
                })
                .map_err(|failure| ConvertError::Failed(Box::new(failure)))?;
            bytes = bytes.saturating_add(range.size());
        }
        Ok(bytes)
    }

    fn restore_range(
        &self,
        pages: &impl GuestPages,
        range: PageRange,
    ) -> Result<(), (PageRange, NotChanged)> {
        let recorded = Unmapped::as_recorded();
        let private = Target::Private(&recorded);
        let without_memory = |range| {
            let set = self.steps.set_without_memory(range, private);
            set.map_err(|why| (range, why))
        };
        // Addresses have the state, whatever is there.
        if self.steps.home == Home::VmAttributes {
            return without_memory(range);
        }
        let mut at = range.start();
        for stretch in pages.memory(range) {
            if let Some(gap) = PageRange::between(at, stretch.range.start()) {
                without_memory(gap)?;
            }
            let set = self.steps.set(&stretch, private);
            set.map_err(|why| (stretch.range, why))?;
            at = stretch.range.end();
        }
        PageRange::between(at, range.end()).map_or(Ok(()), without_memory)
    }

    /// Revokes the pages of `range` that the guest has accepted: the device was
    /// reset or unplugged, or stopped decoding. The pages become shared, and the
    /// guest has to accept them again. Listeners are notified; the VMM must notify
    /// the guest.
    ///
    /// # Panics
    /// If a listener panics, after the revocation is complete. If [`GuestPages::revoke`]
    /// panics, such as in a listener of a memory model, accepted pages at higher
    /// addresses are not revoked.
    pub fn revoke(&self, pages: &mut impl GuestPages, range: PageRange) -> Revoked {
        let (mut revoked, mut panics) = (Revoked::default(), Panics::default());
        // One at a time: a guest chooses how many there are, and each revocation
        // removes what the next search would find.
        loop {
            let lost = pages.accepted(range).next();
            let Some(lost) = lost else { break };
            // A memory model notifies its own listeners, which may panic.
            let recorded = panics.catch(|| pages.revoke(lost)).is_some();
            revoked.bytes += lost.size();
            // Only private MMIO is accepted.
            let stretch = Stretch {
                range: lost,
                sides: Sides::PrivateMmio,
            };
            match self.steps.set(&stretch, Target::Shared) {
                Ok(()) => pages.record(lost, PageState::Shared),
                Err(why) => revoked.not_shared.add(lost, why),
            }
            for listener in &self.steps.listeners {
                panics.catch(|| listener.revoked(lost));
            }
            if !recorded {
                break;
            }
        }
        panics.resume();
        revoked
    }

    /// Carries out the steps of all parts that can fail. If one fails, rolls back
    /// all parts. Returns the first part.
    fn switch(
        &self,
        pages: &mut impl GuestPages,
        request: Request,
    ) -> Result<ConversionPlan, ConvertError> {
        let (range, to) = (request.range(), request.to());
        let first = part(pages, range, to);
        self.switch_part(pages, &first, range, range.start())?;
        let mut rest = first.rest;
        while let Some(from) = rest {
            let plan = part(pages, from, to);
            self.switch_part(pages, &plan, range, from.start())?;
            rest = plan.rest;
        }
        Ok(first)
    }

    /// Carries out one part of a request for `range`, whose pages below `reached`
    /// are done.
    fn switch_part(
        &self,
        pages: &mut impl GuestPages,
        plan: &ConversionPlan,
        range: PageRange,
        reached: u64,
    ) -> Result<(), ConvertError> {
        let (mut progress, mut leftover) = (Progress::default(), Leftover::default());
        let switch = || self.steps.switch(plan, &mut progress);
        let cause = match leftover.panics.catch(switch) {
            Some(Ok(())) => return Ok(()),
            Some(Err(cause)) => Some(cause),
            None => None,
        };
        self.steps.roll_back(pages, plan, progress, &mut leftover);
        let mut rest = PageRange::between(range.start(), reached);
        while let Some(from) = rest {
            let done = part(pages, from, plan.to);
            let progress = self.steps.all_done(&done);
            self.steps.roll_back(pages, &done, progress, &mut leftover);
            rest = done.rest;
        }
        let not_undone = leftover.not_undone;
        leftover.panics.resume();
        // Without a cause there was a panic.
        let failed = cause.map(|cause| ConversionFailure {
            range,
            cause,
            not_undone,
        });
        failed.map_or(Ok(()), |failed| Err(ConvertError::Failed(Box::new(failed))))
    }

    /// Settles all parts. Only this records new states, so the parts that follow
    /// `first` are planned again as they were.
    fn settle(
        &self,
        pages: &mut impl GuestPages,
        request: Request,
        first: ConversionPlan,
    ) -> Converted {
        let (mut converted, mut panics) = (Converted::default(), Panics::default());
        self.steps
            .settle(pages, &first, &mut converted, &mut panics);
        let mut rest = first.rest;
        while let Some(from) = rest {
            let plan = part(pages, from, first.to);
            self.steps.settle(pages, &plan, &mut converted, &mut panics);
            rest = plan.rest;
        }
        // Private MMIO may have been private already: its pages were memory that the guest
        // had made private, or a revocation could not make them shared.
        let some_were_private = converted.bytes < request.range().size();
        if request.to() == PageState::Private && some_were_private {
            let memory: Vec<Stretch> = pages.memory(request.range()).collect();
            accept(pages, request.to(), &memory);
        }
        panics.resume();
        converted
    }
}
