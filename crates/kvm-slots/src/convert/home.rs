// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where a VM's pages have their state, and the calls that change it.

use std::fmt;

use guest_ranges::{PAGE_SIZE, PageRange, PageState};

use super::plan::ConversionPlan;
use super::sides::Stretch;
use crate::uapi::MEMORY_ATTRIBUTE_PRIVATE;
use crate::vm::caps::Capabilities;
use crate::vm::errno::Errno;
use crate::vm::{GuestMemfdFlags, Vm};

/// Where the state of a VM's pages is: who knows which of them are private.
///
/// A VM has one home, which [`probe`](Self::probe) finds. It determines the calls of a
/// conversion:
///
/// | home | memory with a guest_memfd | private MMIO |
/// | --- | --- | --- |
/// | [`VmAttributes`](Self::VmAttributes) | `KVM_SET_MEMORY_ATTRIBUTES` | the same |
/// | [`FileAttributes`](Self::FileAttributes) | `KVM_SET_MEMORY_ATTRIBUTES2` on the file | none: the memslot is private |
/// | [`Slot`](Self::Slot) | cannot be private | none: the memslot is private |
/// | [`Platform`](Self::Platform) | [`PushPages`](crate::push::PushPages) | the same |
///
/// # The bytes of a converted page
///
/// With two sides, the state that a page changes to has other bytes than the one that
/// it leaves. An engine discards the latter, so a page that changes twice is zero. A page
/// with both sides in one guest_memfd has one set of bytes:
///
/// | home | two sides | one guest_memfd |
/// | --- | --- | --- |
/// | `VmAttributes` | zero after both changed | the same bytes |
/// | `FileAttributes` | zero after both changed | unspecified |
/// | `Platform` | unspecified | unspecified |
///
/// KVM keeps the bytes of a software-protected VM's page. TDX and SNP do not promise
/// that, nor do the posted patches for `FileAttributes`, although the kernel that this
/// home was tested on keeps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Home {
    /// KVM has an attribute for each guest-physical address of the VM, with or without a
    /// memslot (Linux 6.8). All pages are shared at first.
    VmAttributes,
    /// Each guest_memfd has an attribute for each of its pages (patches for conversion in
    /// place, v8 of June 2026, which are in no released kernel). The state belongs to the
    /// file: it stays where the file is, if memslots move or disappear. Addresses without a
    /// memslot have none: there, a guest's access is an MMIO exit and not a memory fault.
    /// The pages of a new file are private, unless it was made with
    /// [`GuestMemfdFlags::INIT_SHARED`]. Use that ([`file_flags`](Self::file_flags)), or
    /// [`record`](super::GuestPages::record) its pages as private.
    FileAttributes,
    /// No page of memory can be private. A memslot without a host address always is. An
    /// engine records which of them the guest has accepted.
    Slot,
    /// The platform is called ([`Vm::push_pages`]), and answers.
    Platform,
}

impl Home {
    /// Finds the home of a VM's pages. No page of the VM changes.
    ///
    /// No capability is trusted for [`FileAttributes`](Self::FileAttributes), because its
    /// number differs between versions of the patches: the probe makes a guest_memfd of
    /// one page, changes its attribute, and drops it.
    ///
    /// # Errors
    /// An error that does not show whether the kernel has the ioctl, such as EMFILE.
    pub fn probe(vm: &impl Vm) -> Result<Self, Errno> {
        if vm.push_pages().is_some() {
            return Ok(Self::Platform);
        }
        if has_file_attributes(vm)? {
            return Ok(Self::FileAttributes);
        }
        let capabilities = Capabilities::probe(vm);
        match capabilities.memory_attributes & MEMORY_ATTRIBUTE_PRIVATE {
            0 => Ok(Self::Slot),
            _ => Ok(Self::VmAttributes),
        }
    }

    /// Whether memory can be private.
    pub fn has_private_pages(self) -> bool {
        self != Self::Slot
    }

    /// The flags of a new guest_memfd whose pages are shared at first, as an engine
    /// assumes of memory that it does not know.
    pub fn file_flags(self) -> GuestMemfdFlags {
        match self {
            Self::FileAttributes => GuestMemfdFlags::INIT_SHARED,
            Self::VmAttributes | Self::Slot | Self::Platform => GuestMemfdFlags::empty(),
        }
    }

    /// The call that changes pages of a stretch; `None` if their state is inherent.
    pub(super) fn call(self, stretch: &Stretch) -> Option<Call> {
        let pages = stretch.range;
        match self {
            Self::VmAttributes => Some(Call::Vm { pages }),
            Self::FileAttributes => {
                let (fd, offset) = stretch.sides.file()?;
                let size = pages.size();
                Some(Call::File { fd, offset, size })
            }
            Self::Slot => None,
            Self::Platform => Some(Call::Platform { pages }),
        }
    }

    /// The call that changes pages without memory; `None` if nothing knows their state.
    pub(super) fn call_without_memory(self, pages: PageRange) -> Option<Call> {
        match self {
            Self::VmAttributes => Some(Call::Vm { pages }),
            Self::FileAttributes | Self::Slot => None,
            Self::Platform => Some(Call::Platform { pages }),
        }
    }
}

impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::VmAttributes => "attributes of the VM",
            Self::FileAttributes => "attributes of guest_memfds",
            Self::Slot => "memslots",
            Self::Platform => "the platform",
        })
    }
}

fn has_file_attributes(vm: &impl Vm) -> Result<bool, Errno> {
    let page = vm.page_size().bytes();
    let file = match vm.create_guest_memfd(page, GuestMemfdFlags::empty()) {
        Ok(file) => file,
        Err(error) => return no_such_call(error),
    };
    let set = vm.set_file_attributes(
        std::os::fd::AsFd::as_fd(&file),
        0,
        page,
        MEMORY_ATTRIBUTE_PRIVATE,
    );
    match set {
        Ok(()) => Ok(true),
        Err(error) => no_such_call(error.errno),
    }
}

/// Whether an error says that this kernel does not have a call for this VM.
fn no_such_call(error: Errno) -> Result<bool, Errno> {
    match error {
        Errno::ENOTTY | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS => Ok(false),
        error => Err(error),
    }
}

/// A call that changes the state of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// `KVM_SET_MEMORY_ATTRIBUTES`.
    Vm { pages: PageRange },
    /// `KVM_SET_MEMORY_ATTRIBUTES2`.
    File { fd: i32, offset: u64, size: u64 },
    /// [`PushPages`](crate::push::PushPages).
    Platform { pages: PageRange },
}

impl Call {
    /// Both calls as one, if one call can change the pages of both.
    fn join(self, next: Self) -> Option<Self> {
        match (self, next) {
            (
                Self::File { fd, offset, size },
                Self::File {
                    fd: other,
                    offset: from,
                    size: more,
                },
            ) if fd == other && offset.checked_add(size) == Some(from) => Some(Self::File {
                fd,
                offset,
                size: size.checked_add(more)?,
            }),
            (Self::Platform { pages }, Self::Platform { pages: next })
                if pages.end() == next.start() =>
            {
                let pages = PageRange::between(pages.start(), next.end())?;
                Some(Self::Platform { pages })
            }
            _ => None,
        }
    }
}

/// A call of a plan, and how far the plan is after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PlannedCall {
    pub(super) call: Call,
    /// From the first page that changes to the last.
    pub(super) pages: PageRange,
    /// The number of the first stretch that the call changes.
    pub(super) from: usize,
    pub(super) after: Changed,
}

impl PlannedCall {
    /// This call and the next one, on `pages`, as one.
    fn join(self, next: Call, pages: PageRange) -> Option<Self> {
        Some(Self {
            call: self.call.join(next)?,
            pages: PageRange::between(self.pages.start(), pages.end())?,
            ..self
        })
    }
}

/// How many pages of a plan have changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Changed {
    /// The number of stretches.
    pub(super) stretches: usize,
    /// The number of ranges without memory.
    pub(super) unbacked: usize,
}

impl Changed {
    pub(super) fn all(plan: &ConversionPlan) -> Self {
        Self {
            stretches: plan.stretches.len(),
            unbacked: plan.unbacked.len(),
        }
    }
}

/// How many bytes that do not change one `KVM_SET_MEMORY_ATTRIBUTES` covers between two
/// changes. KVM stores an attribute for every page of a call, in nodes of 64, also where
/// nothing changes and where there is no memory: a guest must not choose how many.
const MOST_BETWEEN: u64 = 64 * PAGE_SIZE;

/// The next call on the attributes of the VM. The pages between the changes are already in
/// the new state.
fn call_on_vm(plan: &ConversionPlan, done: Changed) -> Option<PlannedCall> {
    let (mut pages, mut after) = next_change(plan, done)?;
    while let Some((next, with_next)) = next_change(plan, after) {
        if next.start() - pages.end() > MOST_BETWEEN {
            break;
        }
        pages = PageRange::between(pages.start(), next.end())?;
        after = with_next;
    }
    Some(PlannedCall {
        call: Call::Vm { pages },
        pages,
        from: done.stretches,
        after,
    })
}

/// The lowest pages of a plan that have not changed, and how far the plan is with them.
fn next_change(plan: &ConversionPlan, done: Changed) -> Option<(PageRange, Changed)> {
    let stretch = plan.stretches.get(done.stretches).map(|s| s.range);
    let unbacked = plan.unbacked.get(done.unbacked).copied();
    let with_stretch = Changed {
        stretches: done.stretches + 1,
        ..done
    };
    let with_unbacked = Changed {
        unbacked: done.unbacked + 1,
        ..done
    };
    match (stretch, unbacked) {
        (Some(stretch), Some(unbacked)) if unbacked.start() < stretch.start() => {
            Some((unbacked, with_unbacked))
        }
        (Some(stretch), _) => Some((stretch, with_stretch)),
        (None, Some(unbacked)) => Some((unbacked, with_unbacked)),
        (None, None) => None,
    }
}

/// The calls that change the pages of a plan, in their order: as few as possible, of which
/// none covers many pages that do not change.
pub(super) fn calls(home: Home, plan: &ConversionPlan) -> impl Iterator<Item = PlannedCall> + '_ {
    let mut done = Changed::default();
    std::iter::from_fn(move || {
        if home == Home::VmAttributes {
            let call = call_on_vm(plan, done)?;
            done = call.after;
            return Some(call);
        }
        let mut planned: Option<PlannedCall> = None;
        loop {
            let mut after = done;
            let (pages, next) = match plan.stretches.get(done.stretches) {
                Some(stretch) => {
                    after.stretches += 1;
                    (stretch.range, home.call(stretch))
                }
                None => {
                    let Some(&pages) = plan.unbacked.get(done.unbacked) else {
                        return planned;
                    };
                    after.unbacked += 1;
                    (pages, home.call_without_memory(pages))
                }
            };
            planned = match (planned, next) {
                (planned, None) => planned,
                (None, Some(call)) => Some(PlannedCall {
                    call,
                    pages,
                    from: done.stretches,
                    after,
                }),
                (Some(planned), Some(next)) => match planned.join(next, pages) {
                    Some(joined) => Some(PlannedCall { after, ..joined }),
                    None => return Some(planned),
                },
            };
            done = after;
        }
    })
}

/// The attributes of pages in this state.
pub(super) fn attributes(state: PageState) -> u64 {
    match state {
        PageState::Private => MEMORY_ATTRIBUTE_PRIVATE,
        PageState::Shared => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::sides::Sides;
    use super::*;

    const HOMES: [Home; 4] = [
        Home::VmAttributes,
        Home::FileAttributes,
        Home::Slot,
        Home::Platform,
    ];

    #[test]
    fn only_memslots_have_no_private_pages() {
        for home in HOMES {
            assert_eq!(home.has_private_pages(), home != Home::Slot);
        }
    }

    #[test]
    fn homes_are_named_in_words() {
        assert_eq!(HOMES[0].to_string(), "attributes of the VM");
        assert_eq!(HOMES[1].to_string(), "attributes of guest_memfds");
        assert_eq!(format!("{:>9}", HOMES[2]), " memslots");
        assert_eq!(HOMES[3].to_string(), "the platform");
    }

    fn pages(first: u64, count: u64) -> PageRange {
        PageRange::new(first * PAGE_SIZE, count * PAGE_SIZE).unwrap()
    }

    /// Stretches, and pages without memory, that all change.
    fn plan() -> impl Strategy<Value = ConversionPlan> {
        // A gap before, a number of pages, and what they are. Files continue, or do not.
        let gap = prop_oneof![3 => Just(0_u64), 2 => 1..4_u64, 1 => 60..68_u64];
        let change = (gap, 1..4_u64, 0..5_u8, any::<bool>());
        prop::collection::vec(change, 1..12).prop_map(|changes| {
            let (mut stretches, mut unbacked) = (Vec::new(), Vec::new());
            let (mut page, mut offsets) = (1, [0, 0]);
            for (gap, count, what, continues) in changes {
                page += gap;
                let range = pages(page, count);
                page += count;
                let sides = match what {
                    0 => {
                        unbacked.push(range);
                        continue;
                    }
                    1 => Sides::PrivateMmio,
                    fd => {
                        let offset = &mut offsets[usize::from(fd) % 2];
                        *offset += if continues { 0 } else { PAGE_SIZE };
                        let fd = i32::from(fd) % 2;
                        let sides = Sides::PrivateOnly {
                            fd,
                            offset: *offset,
                        };
                        *offset += range.size();
                        sides
                    }
                };
                stretches.push(Stretch { range, sides });
            }
            ConversionPlan {
                to: PageState::Private,
                stale: Vec::new(),
                rest: None,
                stretches,
                unbacked,
            }
        })
    }

    /// Each page, in the words of its call.
    fn pages_of(call: Call) -> Vec<(i32, u64)> {
        let (fd, start, size) = match call {
            Call::Vm { pages } | Call::Platform { pages } => (-1, pages.start(), pages.size()),
            Call::File { fd, offset, size } => (fd, offset, size),
        };
        let pages = (start..start + size).step_by(4096);
        pages.map(|at| (fd, at)).collect()
    }

    /// What changes between two positions in a plan: its pages, and a call for each part.
    fn parts(
        home: Home,
        plan: &ConversionPlan,
        from: Changed,
        to: Changed,
    ) -> Vec<(PageRange, Option<Call>)> {
        let stretches = &plan.stretches[from.stretches..to.stretches];
        let unbacked = &plan.unbacked[from.unbacked..to.unbacked];
        let stretches = stretches.iter().map(|s| (s.range, home.call(s)));
        let unbacked = unbacked
            .iter()
            .map(|range| (*range, home.call_without_memory(*range)));
        stretches.chain(unbacked).collect()
    }

    proptest! {
        #[test]
        fn calls_change_the_pages_of_a_plan_in_order_and_are_as_few_as_possible(plan in plan()) {
            for home in HOMES {
                let all: Vec<PlannedCall> = calls(home, &plan).collect();
                let mut done = Changed::default();
                for call in &all {
                    let mut changes = parts(home, &plan, done, call.after);
                    changes.sort_by_key(|(range, _)| *range);
                    let with_call = changes.iter().filter(|(_, call)| call.is_some());
                    let with_call: Vec<PageRange> = with_call.map(|(range, _)| *range).collect();
                    let hull = PageRange::between(
                        with_call[0].start(),
                        with_call[with_call.len() - 1].end(),
                    );
                    prop_assert_eq!(Some(call.pages), hull);
                    let due = changes.iter().filter_map(|(_, call)| call.map(pages_of));
                    let due: Vec<(i32, u64)> = due.flatten().collect();
                    let found = pages_of(call.call);
                    if home == Home::VmAttributes {
                        // Pages between the changes have the state already. They are few.
                        prop_assert!(due.iter().all(|page| found.contains(page)));
                        let most = |two: &[PageRange]| two[1].start() - two[0].end() <= MOST_BETWEEN;
                        prop_assert!(with_call.windows(2).all(most));
                        prop_assert_eq!((found[0], found.last()), (due[0], due.last()));
                    } else {
                        prop_assert_eq!(found, due);
                    }
                    let skipped = plan.stretches[done.stretches..call.from].iter();
                    prop_assert!(skipped.map(|s| home.call(s)).all(|call| call.is_none()));
                    done = call.after;
                }
                let rest = parts(home, &plan, done, Changed::all(&plan));
                prop_assert!(rest.iter().all(|(_, call)| call.is_none()));
                for two in all.windows(2) {
                    let could_be_one = match home {
                        Home::VmAttributes => {
                            two[1].pages.start() - two[0].pages.end() <= MOST_BETWEEN
                        }
                        _ => {
                            let (one, next) = (pages_of(two[0].call), pages_of(two[1].call));
                            let last = one.last().map(|(fd, at)| (*fd, at + PAGE_SIZE));
                            last.as_ref() == next.first()
                        }
                    };
                    prop_assert!(!could_be_one, "{:?}", two);
                }
            }
        }
    }
}
