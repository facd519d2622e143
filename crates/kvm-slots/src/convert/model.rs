// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state of pages in a memory model.

use std::borrow::BorrowMut;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use memory_model::{Backing, FlatView, MemoryModel, SpaceId};

use super::pages::{GuestPages, pages_within};
use super::sides::{Sides, Stretch};
use guest_ranges::{GuestMemfdSides, PAGE_SIZE, PageRange, PageState};

/// The pages of one address space of a memory model, which records the private and
/// accepted pages.
///
/// `M` is the model itself, for a [`Converter`](crate::convert::Converter) that owns it,
/// or a `&mut` to it, for an [`Engine`](crate::convert::Engine) that borrows it.
///
/// # Panics
/// All methods panic if the space is not part of the model, or was removed from it:
/// drop the converter before the space. Recording panics if the model refuses a
/// change although it allowed the plan. A
/// [`Converter`](crate::convert::Converter) then reports
/// [`CutShort`](crate::convert::ConvertError::CutShort).
#[derive(Debug)]
pub struct ModelPages<M, H> {
    model: M,
    space: SpaceId,
    handle: PhantomData<fn(H)>,
}

impl<H, M: BorrowMut<MemoryModel<H>>> ModelPages<M, H> {
    /// The pages of `space`.
    pub fn new(model: M, space: SpaceId) -> Self {
        Self {
            model,
            space,
            handle: PhantomData,
        }
    }

    /// The model, for transactions.
    pub fn model(&mut self) -> &mut MemoryModel<H> {
        self.model.borrow_mut()
    }
}

// SAFETY: all stretches are from memory and files that the model's view owns.
unsafe impl<H, M: BorrowMut<MemoryModel<H>>> GuestPages for ModelPages<M, H> {
    fn memory(&self, range: PageRange) -> impl Iterator<Item = Stretch> + '_ {
        Memory {
            view: self.model.borrow().view(self.space),
            rest: Some(range),
        }
    }

    fn private(&self, range: PageRange) -> impl Iterator<Item = PageRange> + '_ {
        pages_within(self.model.borrow().private(self.space), range)
    }

    fn accepted(&self, range: PageRange) -> impl Iterator<Item = PageRange> + '_ {
        pages_within(self.model.borrow().accepted(self.space), range)
    }

    fn has_room(&self, range: PageRange) -> bool {
        let model = self.model.borrow();
        model.has_room(self.space, range.into()).is_ok()
    }

    fn record(&mut self, range: PageRange, state: PageState) {
        let model = self.model.borrow_mut();
        let set = model.set_page_state(self.space, range.into(), state);
        must_follow(range, set);
    }

    fn accept(&mut self, range: PageRange) {
        let model = self.model.borrow_mut();
        let accepted = model.accept(self.space, range.into());
        must_follow(range, accepted);
    }

    fn revoke(&mut self, range: PageRange) {
        let space = self.space;
        self.model.borrow_mut().revoke(space, range.into());
    }
}

/// The plan has checked the same view, and nothing changes it meanwhile. If the model
/// still refuses, its state of private pages is wrong, and no conversion may
/// continue.
fn must_follow<E: fmt::Display>(range: PageRange, recorded: Result<(), E>) {
    if let Err(error) = recorded {
        panic!("the model refuses what it allowed for {range}: {error}");
    }
}

/// The runs of a view that have a private side, in a range.
struct Memory<H> {
    view: Arc<FlatView<H>>,
    rest: Option<PageRange>,
}

impl<H> Iterator for Memory<H> {
    type Item = Stretch;

    fn next(&mut self) -> Option<Stretch> {
        loop {
            let rest = self.rest?;
            let run = self.view.intersecting(rest.into()).next();
            let Some(run) = run else {
                self.rest = None;
                return None;
            };
            let end = run.range().last().saturating_add(1);
            // A partial page at the end of a run is skipped together with the
            // next run.
            self.rest = end
                .checked_next_multiple_of(PAGE_SIZE)
                .and_then(|end| PageRange::between(end, rest.end()));
            let pages = PageRange::inside(run.range());
            let found = pages.and_then(|pages| {
                let skipped = pages.start() - run.range().start();
                let sides = sides(&run.backing())?.advanced(skipped);
                Stretch {
                    range: pages,
                    sides,
                }
                .within(rest)
            });
            if found.is_some() {
                return found;
            }
        }
    }
}

/// The places of the two sides; `None` if there is no private one.
fn sides(backing: &Backing) -> Option<Sides> {
    match backing {
        Backing::Memory(memory) => {
            let (file, holds) = memory.guest_memfd()?;
            let host = memory.host().address();
            match holds {
                GuestMemfdSides::Shared => None,
                GuestMemfdSides::Both => Some(Sides::InPlace {
                    fd: file.fd(),
                    offset: file.offset(),
                    host: Some(host),
                }),
                GuestMemfdSides::Private => Some(Sides::Split {
                    fd: file.fd(),
                    offset: file.offset(),
                    host,
                }),
            }
        }
        Backing::PrivateMmio(_) => Some(Sides::PrivateMmio),
        Backing::DeviceRam(_) | Backing::Nothing => None,
    }
}
