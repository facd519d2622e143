// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The memslots of a simulated VM, with the kernel's checks in the kernel's order.
//!
//! Compare `kvm_vm_ioctl_set_memory_region`, `check_memory_region_flags`,
//! `kvm_set_memory_region` and `kvm_gmem_bind` (virt/kvm/, Linux 7.3). Where a
//! version differs, the check says so.

use std::collections::BTreeMap;

use kvm_bindings::{
    KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region2,
};

use super::files::{FileId, FileKind, Files, SimFile};
use super::kernel::{KernelVersion, SimConfig};
use crate::abi::AbiProfile;
use crate::vm::GuestMemfdFlags;
use crate::vm::errno::Errno;

/// `KVM_MEM_MAX_NR_PAGES`.
const MAX_PAGES: u64 = (1 << 31) - 1;

/// A slot of the simulated kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SimSlot {
    pub(super) gpa: u64,
    pub(super) size: u64,
    pub(super) userspace_addr: u64,
    pub(super) flags: u32,
    pub(super) file: Option<SlotFile>,
}

/// The file of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlotFile {
    pub(super) id: FileId,
    pub(super) offset: u64,
    pub(super) serves: Serves,
}

impl SlotFile {
    fn is_guest_memfd(&self) -> bool {
        !matches!(self.serves, Serves::Device(_))
    }
}

/// The guest accesses that use a slot's file, and not its host address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Serves {
    /// Private accesses: a guest_memfd.
    Private,
    /// All accesses: a guest_memfd that the host can map (`KVM_MEMSLOT_GMEM_ONLY`).
    PrivateAndShared,
    /// All accesses: a device's file, in patched kernels.
    Device(On),
}

/// The patch that supports a slot on a device's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum On {
    /// [`AbiProfile::FdOffset`]. On a VM with private memory, all accesses to the slot
    /// are private: guests of software-protected VMs cannot choose, and there is no
    /// host mapping to share.
    FdOffset {
        /// Whether the VM has private memory.
        private_only: bool,
    },
    /// Another patch.
    Other,
}

impl SimSlot {
    pub(super) fn last(&self) -> u64 {
        self.gpa + (self.size - 1)
    }

    pub(super) fn is_readonly(&self) -> bool {
        self.flags & KVM_MEM_READONLY != 0
    }

    /// Whether every access of the guest is private.
    pub(super) fn is_private_only(&self) -> bool {
        let on = Serves::Device(On::FdOffset { private_only: true });
        self.file.is_some_and(|file| file.serves == on)
    }
}

/// The number of an address space, and a slot's number in it.
pub(super) type Key = (u16, u16);

/// The key of the slot in an ioctl.
pub(super) fn key(slot: u32) -> Key {
    let [high, low] = [slot >> 16, slot & 0xffff];
    let short = |half: u32| u16::try_from(half).unwrap_or(u16::MAX);
    (short(high), short(low))
}

/// All slots: per address space by number.
#[derive(Debug, Default)]
pub(super) struct Memslots {
    slots: BTreeMap<(u16, u16), SimSlot>,
    /// The numbers by address space and guest-physical address.
    by_gpa: BTreeMap<(u16, u64), u16>,
    /// The bytes of guest_memfds in slots: first byte and size. No byte is in two
    /// slots.
    bound: BTreeMap<(FileId, u64), u64>,
}

impl Memslots {
    /// The slot of address space 0 that contains `gpa`.
    pub(super) fn find(&self, gpa: u64) -> Option<&SimSlot> {
        let (_, id) = self.by_gpa.range((0, 0)..=(0, gpa)).next_back()?;
        self.slots.get(&(0, *id)).filter(|slot| gpa <= slot.last())
    }

    /// Whether no address space has a slot.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The slots of address space 0 by guest-physical address.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u16, &SimSlot)> {
        let ids = self.by_gpa.range((0, 0)..=(0, u64::MAX));
        ids.filter_map(|(_, id)| Some((*id, self.slots.get(&(0, *id))?)))
    }

    /// The slot with the number of an ioctl.
    pub(super) fn get(&self, slot: u32) -> Option<SimSlot> {
        self.slots.get(&key(slot)).copied()
    }

    /// The slot of address space 0 that contains `gpa`, and the offset in it.
    pub(super) fn offset_at(&self, gpa: u64) -> Option<(Key, u64)> {
        let slot = self.find(gpa)?;
        let id = self.by_gpa.get(&(0, slot.gpa))?;
        Some(((0, *id), gpa - slot.gpa))
    }

    fn insert(&mut self, key: (u16, u16), slot: SimSlot) {
        self.remove(key);
        self.by_gpa.insert((key.0, slot.gpa), key.1);
        if let Some(file) = slot.file.filter(SlotFile::is_guest_memfd) {
            self.bound.insert((file.id, file.offset), slot.size);
        }
        self.slots.insert(key, slot);
    }

    fn remove(&mut self, key: (u16, u16)) -> Option<SimSlot> {
        let old = self.slots.remove(&key)?;
        self.by_gpa.remove(&(key.0, old.gpa));
        if let Some(file) = old.file.filter(SlotFile::is_guest_memfd) {
            self.bound.remove(&(file.id, file.offset));
        }
        Some(old)
    }

    /// `KVM_SET_USER_MEMORY_REGION2`, or the older ioctl if `old_ioctl` is set.
    pub(super) fn set(
        &mut self,
        config: &SimConfig,
        files: &Files,
        region: &kvm_userspace_memory_region2,
        old_ioctl: bool,
    ) -> Result<(), Errno> {
        if old_ioctl && region.flags & !(KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY) != 0 {
            return Err(Errno::EINVAL);
        }
        let [low, high] = [region.slot & 0xffff, region.slot >> 16];
        let id = u16::try_from(low).map_err(|_| Errno::EINVAL)?;
        if id >= config.nr_memslots {
            return Err(Errno::EINVAL);
        }
        check_flags(config, region.flags)?;
        check_numbers(config, region)?;
        if high >= config.address_spaces() {
            return Err(Errno::EINVAL);
        }
        let key = (u16::try_from(high).map_err(|_| Errno::EINVAL)?, id);

        let old = self.slots.get(&key).copied();
        if region.memory_size == 0 {
            return match self.remove(key) {
                Some(_) => Ok(()),
                None => Err(Errno::EINVAL),
            };
        }
        let new = match old {
            Some(old) => match changed(config, &old, region)? {
                Some(new) => new,
                None => return Ok(()),
            },
            None => SimSlot {
                gpa: region.guest_phys_addr,
                size: region.memory_size,
                userspace_addr: region.userspace_addr,
                flags: region.flags,
                file: None,
            },
        };
        if self.overlaps(key, &new) {
            return Err(Errno::EEXIST);
        }
        let file = match old {
            Some(old) => old.file,
            None => self.bind(config, files, region)?,
        };
        check_arch(config, &new, file)?;
        // Only now, the slot is bound to its file.
        let on_device = file.filter(|file| matches!(file.serves, Serves::Device(_)));
        if on_device.is_some_and(|file| files.is_revoked(file.id)) {
            return Err(Errno::ENODEV);
        }
        self.insert(key, SimSlot { file, ..new });
        Ok(())
    }

    /// Whether another slot of the address space contains one of these addresses.
    fn overlaps(&self, key: (u16, u16), new: &SimSlot) -> bool {
        // Slots do not overlap, so from high to low their ends decrease too.
        let below = self.by_gpa.range((key.0, 0)..=(key.0, new.last())).rev();
        let mut others = below.filter(|(_, id)| **id != key.1);
        let nearest = others
            .next()
            .and_then(|(_, id)| self.slots.get(&(key.0, *id)));
        nearest.is_some_and(|slot| new.gpa <= slot.last())
    }

    /// Whether a slot of address space 0 contains one of these addresses.
    pub(super) fn overlaps_any(&self, new: &SimSlot) -> bool {
        let nearest = self.by_gpa.range((0, 0)..=(0, new.last())).next_back();
        let nearest = nearest.and_then(|(_, id)| self.slots.get(&(0, *id)));
        nearest.is_some_and(|slot| new.gpa <= slot.last())
    }

    /// Finds the file of a new slot, and checks its range.
    fn bind(
        &self,
        config: &SimConfig,
        files: &Files,
        region: &kvm_userspace_memory_region2,
    ) -> Result<Option<SlotFile>, Errno> {
        let by_patch = patch_flag(config) & region.flags != 0;
        if !by_patch && region.flags & KVM_MEM_GUEST_MEMFD == 0 {
            return Ok(None);
        }
        let (fd, offset) = match config.abi {
            AbiProfile::FdOffset { .. } if by_patch => (region.pad1, region.pad2[0]),
            _ => (region.guest_memfd, region.guest_memfd_offset),
        };
        let id = files.by_descriptor(fd)?;
        let file = files.get(id).ok_or(Errno::EINVAL)?;
        let serves = match file.kind {
            FileKind::DmaBuf { .. } => Serves::Device(match config.abi {
                AbiProfile::FdOffset { .. } => On::FdOffset {
                    private_only: config.has_private_memory(),
                },
                _ => On::Other,
            }),
            FileKind::GuestMemfd(flags) if flags.contains(GuestMemfdFlags::MMAP) => {
                Serves::PrivateAndShared
            }
            FileKind::GuestMemfd(_) => Serves::Private,
        };
        let fits = by_patch == matches!(serves, Serves::Device(_));
        // The RFCs' slot has the whole dma-buf.
        let whole = (offset, region.memory_size) == (0, file.size);
        let sliced = !by_patch || !matches!(config.abi, AbiProfile::RfcDmaBuf { .. });
        if !fits {
            return Err(Errno::EINVAL);
        }
        // The patch maps devices read-write (`kvm_backing_fd_prepare`).
        let by_offset = by_patch && matches!(config.abi, AbiProfile::FdOffset { .. });
        if by_offset && !Files::is_read_write(fd) {
            return Err(Errno::EACCES);
        }
        if !is_inside(config, offset, region.memory_size, file) || !(whole || sliced) {
            return Err(Errno::EINVAL);
        }
        let slot_file = SlotFile { id, offset, serves };
        if !by_patch && self.is_bound(slot_file, region.memory_size) {
            return Err(match config.kernel {
                KernelVersion::V7_3 => Errno::EEXIST,
                _ => Errno::EINVAL,
            });
        }
        Ok(Some(slot_file))
    }

    /// Whether another slot has some of these bytes of a guest_memfd.
    fn is_bound(&self, file: SlotFile, size: u64) -> bool {
        let end = file.offset + size;
        // They do not overlap, so the last one below the end ends highest.
        let nearest = self.bound.range((file.id, 0)..(file.id, end)).next_back();
        nearest.is_some_and(|((_, offset), size)| file.offset < offset + size)
    }
}

/// Whether a slice ends inside the file, by the check of `kvm_gmem_bind`.
fn is_inside(config: &SimConfig, offset: u64, size: u64, file: &SimFile) -> bool {
    let Ok(start) = i64::try_from(offset) else {
        return false;
    };
    // Up to 6.18 the kernel adds signed numbers and lets the sum wrap.
    let wraps = start.checked_add_unsigned(size).is_none();
    let end = offset.checked_add(size);
    let guest_memfd = matches!(file.kind, FileKind::GuestMemfd(_));
    end.is_some_and(|end| end <= file.size)
        || (wraps && guest_memfd && config.kernel <= KernelVersion::V6_18)
}

/// The flag bit of a patched kernel for slots without a host address.
fn patch_flag(config: &SimConfig) -> u32 {
    match config.abi {
        AbiProfile::FdOffset { flag } => flag,
        // The RFCs have the flag only with private memory.
        AbiProfile::RfcDmaBuf { flag } if config.has_private_memory() => flag,
        AbiProfile::None | AbiProfile::RfcDmaBuf { .. } | AbiProfile::Push => 0,
    }
}

/// Checks that the flags exist and do not exclude each other.
fn check_flags(config: &SimConfig, flags: u32) -> Result<(), Errno> {
    let on_file = KVM_MEM_GUEST_MEMFD | patch_flag(config);
    let mut valid = patch_flag(config);
    // Since 6.18 the flag exists if guest_memfd is built in.
    if config.has_guest_memfd() {
        valid |= KVM_MEM_GUEST_MEMFD;
    }
    if flags & on_file == 0 {
        valid |= KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY;
    }
    let both = flags & KVM_MEM_GUEST_MEMFD != 0 && flags & patch_flag(config) != 0;
    match flags & !valid == 0 && !both {
        true => Ok(()),
        false => Err(Errno::EINVAL),
    }
}

/// The checks of `kvm_arch_prepare_memory_region`.
fn check_arch(config: &SimConfig, new: &SimSlot, file: Option<SlotFile>) -> Result<(), Errno> {
    let rules = config.rules();
    let beyond = new.last().checked_shr(config.slot_bits());
    if beyond.is_some_and(|beyond| beyond != 0) {
        return Err(rules.beyond_guest);
    }
    let unmappable = file.is_some_and(|file| file.serves == Serves::Private);
    match unmappable && !rules.unmappable_files {
        true => Err(Errno::EINVAL),
        false => Ok(()),
    }
}

/// Checks the alignment and bounds of the caller's numbers.
fn check_numbers(config: &SimConfig, region: &kvm_userspace_memory_region2) -> Result<(), Errno> {
    let page_size = config.page_size.bytes();
    let aligned = |n: u64| n % page_size == 0;
    let (size, host) = (region.memory_size, region.userspace_addr);
    let host_end = host.checked_add(size);
    let mut good = aligned(size)
        && aligned(region.guest_phys_addr)
        && aligned(host)
        && host_end.is_some_and(|end| end <= config.rules().user_end)
        && region.guest_phys_addr.checked_add(size).is_some()
        && size / page_size <= MAX_PAGES;
    let by_patch = region.flags & patch_flag(config) != 0;
    let in_padding = by_patch && matches!(config.abi, AbiProfile::FdOffset { .. });
    if region.flags & KVM_MEM_GUEST_MEMFD != 0 || (by_patch && !in_padding) {
        good &= aligned(region.guest_memfd_offset)
            && region.guest_memfd_offset.checked_add(size).is_some();
    }
    if in_padding {
        let [offset, reserved @ ..] = &region.pad2;
        good &= host == 0 && aligned(*offset) && offset.checked_add(size).is_some();
        good &= reserved.iter().all(|word| *word == 0);
    }
    if good { Ok(()) } else { Err(Errno::EINVAL) }
}

/// The changed slot; `None` if nothing changes.
fn changed(
    config: &SimConfig,
    old: &SimSlot,
    region: &kvm_userspace_memory_region2,
) -> Result<Option<SimSlot>, Errno> {
    // Slots on files are immutable: an ioctl with the file is refused even if nothing
    // would change.
    if region.flags & (KVM_MEM_GUEST_MEMFD | patch_flag(config)) != 0 {
        return Err(Errno::EINVAL);
    }
    let other_kind = (region.flags ^ old.flags) & !KVM_MEM_LOG_DIRTY_PAGES != 0;
    let other_memory =
        (region.userspace_addr, region.memory_size) != (old.userspace_addr, old.size);
    if other_kind || other_memory {
        return Err(Errno::EINVAL);
    }
    let new = SimSlot {
        gpa: region.guest_phys_addr,
        flags: region.flags,
        ..*old
    };
    Ok((new != *old).then_some(new))
}
