// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The steps of a plan that can fail: listeners and page attributes.

use std::sync::Arc;

use guest_ranges::{PageRange, PageState};

use super::error::FailedStep;
use super::listener::{Conversion, ConversionListener};
use super::plan::ConversionPlan;
use crate::uapi::MEMORY_ATTRIBUTE_PRIVATE;
use crate::vm::Vm;
use crate::vm::errno::Errno;

/// The VM and the listeners that take part in each step.
pub(super) struct Steps<V> {
    pub(super) vm: V,
    /// Whether pages of this VM can be private.
    pub(super) private_pages: bool,
    pub(super) listeners: Vec<Arc<dyn ConversionListener>>,
}

/// How much of a plan was carried out.
#[derive(Clone, Copy)]
pub(super) struct Progress {
    /// How many listeners have prepared.
    pub(super) prepared: usize,
    /// Whether the attributes have changed.
    pub(super) attributes: bool,
}

/// A failed step, and the progress before it.
pub(super) struct Failed {
    pub(super) cause: FailedStep,
    pub(super) progress: Progress,
}

impl<V: Vm> Steps<V> {
    /// The progress after a plan was carried out.
    pub(super) fn all_done(&self) -> Progress {
        Progress {
            prepared: self.listeners.len(),
            attributes: true,
        }
    }

    /// Changes attributes and notifies listeners. Devices have pages only while the
    /// guest has them as shared, so listeners are first to private and last to
    /// shared.
    pub(super) fn switch(&self, plan: &ConversionPlan) -> Result<(), Failed> {
        let Some(span) = plan.span() else {
            return Ok(());
        };
        let attributes = |prepared| {
            let set = self.set_attributes(span, plan.to);
            set.map_err(|errno| Failed {
                cause: FailedStep::Attributes { range: span, errno },
                progress: Progress {
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
                progress: Progress {
                    prepared,
                    attributes,
                },
            })?;
        }
        Ok(())
    }

    /// Makes pages private or shared. Without private pages KVM is not called.
    pub(super) fn set_attributes(&self, range: PageRange, to: PageState) -> Result<(), Errno> {
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
