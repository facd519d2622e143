// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is attached to regions, and what of it is active: computed from every
//! run of a view, regardless of the cost.

use std::sync::Arc;

use memory_model::{
    AddrRange, EventFd, FlatView, GuestAccess, IoEventFd, Transaction, Trigger, Update,
};

use super::ops::AttachOp;
use super::painted::{Node, Painted, What};

/// What is attached to a region, or active in a space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attached {
    pub events: Vec<IoEventFd>,
    pub ranges: Vec<AddrRange>,
}

impl Attached {
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.ranges.is_empty()
    }

    /// What is active in a view.
    pub fn active(painted: &Painted, view: &FlatView<usize>) -> Self {
        let mut active = Self::default();
        for run in view.ranges().filter(|r| r.access() == GuestAccess::Trap) {
            let attached = &painted.nodes[*run.region().handle()].attached;
            // The address at which the region would start. Nothing wraps in so
            // many bits.
            let base = i128::from(run.range().start()) - i128::from(run.offset());
            let shown = |first: i128, last: i128| {
                let (start, end) = (run.range().start(), run.range().last());
                let first = first.max(start.into());
                let last = last.min(end.into());
                (first <= last).then(|| (u64::try_from(first), u64::try_from(last)))
            };
            for event in &attached.events {
                let first = base + i128::from(event.at);
                let last = first + i128::from(event.trigger.size().max(1)) - 1;
                if let Some((Ok(a), Ok(b))) = shown(first, last) {
                    if (i128::from(a), i128::from(b)) == (first, last) {
                        let event = event.clone();
                        active.events.push(IoEventFd { at: a, ..event });
                    }
                }
            }
            for range in &attached.ranges {
                let [first, last] = [range.start(), range.last()].map(|a| base + i128::from(a));
                if let Some((Ok(a), Ok(b))) = shown(first, last) {
                    active.ranges.push(AddrRange::from_bounds(a, b).unwrap());
                }
            }
        }
        active.sorted()
    }

    fn sorted(mut self) -> Self {
        self.events.sort();
        self.ranges.sort();
        self
    }

    /// Follows an update, forwards or backwards.
    pub fn follow(&mut self, update: &Update<'_, usize>, back: bool) {
        let a = update.attachments;
        let mut events = [&a.ioeventfds_removed, &a.ioeventfds_added];
        let mut ranges = [&a.coalesced_removed, &a.coalesced_added];
        for list in events {
            assert!(list.is_sorted());
        }
        for list in ranges {
            assert!(list.is_sorted());
        }
        if back {
            events.reverse();
            ranges.reverse();
        }
        assert!(!events[0].iter().any(|e| events[1].contains(e)), "it stays");
        assert!(!ranges[0].iter().any(|r| ranges[1].contains(r)), "it stays");
        exchange(&mut self.events, events);
        exchange(&mut self.ranges, ranges);
    }
}

fn exchange<T: Ord + Clone>(list: &mut Vec<T>, [removed, added]: [&Vec<T>; 2]) {
    for item in removed {
        let position = list.iter().position(|i| i == item);
        list.remove(position.expect("it was there"));
    }
    for item in added {
        assert!(!list.contains(item), "it is there already");
        list.push(item.clone());
    }
    list.sort();
}

/// Makes one operation in both models, which must agree on whether it is
/// allowed.
pub fn apply(t: &mut Transaction<'_, usize>, node: &mut Node, op: AttachOp) {
    let takes = !node.removed && matches!(node.what, What::Mmio | What::RomDevice);
    let fits = |at: u64, size: u64| u128::from(at) + u128::from(size) <= node.size;
    let attached = &mut node.attached;
    match op {
        AttachOp::Event(at, trigger, fd) => {
            let event = EventFd::new(fd, Arc::new(()));
            let event = IoEventFd { at, trigger, event };
            let mut there = attached.events.iter().filter(|e| e.at == at);
            let allowed = takes
                && fits(at, trigger.size().max(1))
                && !there.any(|e| could_be_both(e.trigger, trigger));
            let result = t.attach_ioeventfd(node.id, event.clone());
            assert_eq!(result.is_ok(), allowed, "{result:?}");
            if allowed {
                attached.events.push(event);
            }
        }
        AttachOp::Coalesced(range) => {
            let mut there = attached.ranges.iter();
            let free = !there.any(|r| r.start() <= range.last() && range.start() <= r.last());
            let size = range.last() - range.start() + 1;
            let allowed = takes && fits(range.start(), size) && free;
            let result = t.attach_coalesced(node.id, range);
            assert_eq!(result.is_ok(), allowed, "{result:?}");
            if allowed {
                attached.ranges.push(range);
            }
        }
        AttachOp::NoEvent(which) if !attached.events.is_empty() => {
            let event = attached.events[usize::from(which) % attached.events.len()].clone();
            let event_fd = EventFd::new(event.event.fd() + 1, Arc::new(()));
            let other = IoEventFd {
                event: event_fd,
                ..event.clone()
            };
            assert!(t.detach_ioeventfd(node.id, &other).is_err());
            t.detach_ioeventfd(node.id, &event).unwrap();
            attached.events.retain(|e| *e != event);
        }
        AttachOp::NoCoalesced(which) if !attached.ranges.is_empty() => {
            let range = attached.ranges[usize::from(which) % attached.ranges.len()];
            t.detach_coalesced(node.id, range).unwrap();
            assert!(t.detach_coalesced(node.id, range).is_err());
            attached.ranges.retain(|r| *r != range);
        }
        AttachOp::NoEvent(_) | AttachOp::NoCoalesced(_) => {}
    }
}

/// Whether a write matches both, tried with these sizes and values.
fn could_be_both(a: Trigger, b: Trigger) -> bool {
    let is = |t: Trigger, size: u64, value: u64| {
        let this_size = t == Trigger::AnyWrite || t.size() == size;
        this_size && (t.value().is_none() || t.value() == Some(value))
    };
    let mut writes = [1, 2, 4, 8]
        .into_iter()
        .flat_map(|size| [(size, 0), (size, 1), (size, 2)]);
    writes.any(|(size, value)| is(a, size, value) && is(b, size, value))
}
