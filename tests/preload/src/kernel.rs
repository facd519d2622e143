// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Answers the program's system calls by the simulated KVM.

use std::io::Write;
use std::os::fd::{BorrowedFd, IntoRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::ptr;

use kvm_bindings::{
    KVM_CAP_IMMEDIATE_EXIT, KVM_CAP_MAX_VCPU_ID, KVM_CAP_MAX_VCPUS, KVM_CAP_NR_VCPUS,
    kvm_cpuid_entry2, kvm_create_guest_memfd, kvm_memory_attributes, kvm_userspace_memory_region,
    kvm_userspace_memory_region2,
};
use kvm_slots::sim::{FileCall, Sharing, SimConfig, SimVm};
use kvm_slots::{Errno, GuestMemfdFlags, Vm};

use crate::answer::{Answer, Answered};
use crate::descriptors::{Descriptor, Descriptors};
use crate::ioctls;
use crate::mappings::Mappings;

/// The simulated kernel, as the program sees it.
#[derive(Debug)]
pub(crate) struct Kernel {
    config: SimConfig,
    descriptors: Descriptors,
    mappings: Mappings,
}

/// A call of `mmap`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mmap {
    pub(crate) address: usize,
    pub(crate) size: usize,
    pub(crate) protection: i32,
    pub(crate) flags: i32,
    pub(crate) fd: RawFd,
    pub(crate) offset: i64,
}

/// Each call returns `None` if it does not concern KVM: the real kernel then answers.
impl Kernel {
    pub(crate) fn new(config: SimConfig) -> Self {
        Self {
            config,
            descriptors: Descriptors::default(),
            mappings: Mappings::default(),
        }
    }

    pub(crate) fn open(&mut self, path: &[u8]) -> Option<Answered> {
        let (call, fd) = match path {
            b"/dev/kvm" => ("open", self.descriptors.open(Descriptor::Device)),
            // The selftests read it first. Nothing here emulates an instruction.
            b"/sys/module/kvm/parameters/force_emulation_prefix" => ("open of sysfs", zero()),
            _ if path.starts_with(b"/sys/module/kvm") => {
                return Some(Answered::not_simulated("open of /sys/module/kvm"));
            }
            _ => return None,
        };
        let answer = descriptor(fd);
        Some(Answered { call, answer })
    }

    /// The descriptor is then closed by the real kernel, too.
    pub(crate) fn close(&mut self, fd: RawFd) {
        self.descriptors.close(fd);
    }

    /// # Safety
    /// The argument is as the ioctl's documentation says.
    pub(crate) unsafe fn ioctl(
        &mut self,
        fd: RawFd,
        request: u64,
        argument: usize,
    ) -> Option<Answered> {
        match self.descriptors.get(fd)? {
            // SAFETY: passed on from the caller.
            Descriptor::Device => Some(unsafe { self.device_ioctl(request, argument) }),
            // SAFETY: passed on from the caller.
            Descriptor::Vm(vm) => Some(unsafe { self.vm_ioctl(&vm, request, argument) }),
            Descriptor::GuestMemfd(_) => Some(Answered::not_simulated("ioctl of a guest_memfd")),
        }
    }

    /// # Safety
    /// As for [`ioctl`](Self::ioctl).
    unsafe fn device_ioctl(&mut self, request: u64, argument: usize) -> Answered {
        let (call, answer) = match request {
            ioctls::GET_API_VERSION => ("KVM_GET_API_VERSION", Answer::Value(12)),
            ioctls::CHECK_EXTENSION => {
                return extension(argument, |number| self.config.device_extension(number));
            }
            ioctls::CREATE_VM => {
                let vm = SimVm::create(self.config, argument as u64);
                let fd = vm.and_then(|vm| self.descriptors.open(Descriptor::Vm(vm)));
                ("KVM_CREATE_VM", descriptor(fd))
            }
            ioctls::GET_SUPPORTED_CPUID => {
                let entries = address_widths(self.config.physical_bits);
                // SAFETY: passed on from the caller.
                let written = unsafe { write_cpuid(argument, &entries) };
                ("KVM_GET_SUPPORTED_CPUID", Answer::of(written))
            }
            _ => return Answered::not_simulated(ioctls::name(request)),
        };
        Answered { call, answer }
    }

    /// # Safety
    /// As for [`ioctl`](Self::ioctl).
    unsafe fn vm_ioctl(&mut self, vm: &SimVm, request: u64, argument: usize) -> Answered {
        // SAFETY: the caller guarantees that the argument is the address of
        // the struct of this ioctl. No guest of the simulated VM accesses the memory
        // of a slot, so it makes no difference what else the program does with it.
        let (call, answer) = unsafe {
            match request {
                ioctls::CHECK_EXTENSION => {
                    return extension(argument, |number| vm.check_extension(number));
                }
                ioctls::SET_USER_MEMORY_REGION => {
                    let region = read_argument::<kvm_userspace_memory_region>(argument);
                    let set = region.and_then(|region| vm.set_user_memory_region(&region));
                    ("KVM_SET_USER_MEMORY_REGION", Answer::of(set))
                }
                ioctls::SET_USER_MEMORY_REGION2 => {
                    let region = read_argument::<kvm_userspace_memory_region2>(argument);
                    let set = region.and_then(|region| vm.set_user_memory_region2(&region));
                    ("KVM_SET_USER_MEMORY_REGION2", Answer::of(set))
                }
                ioctls::CREATE_GUEST_MEMFD => {
                    let wanted = read_argument::<kvm_create_guest_memfd>(argument);
                    let fd = wanted.and_then(|wanted| self.create_guest_memfd(vm, &wanted));
                    ("KVM_CREATE_GUEST_MEMFD", descriptor(fd))
                }
                ioctls::SET_MEMORY_ATTRIBUTES => {
                    const CALL: &str = "KVM_SET_MEMORY_ATTRIBUTES";
                    let wanted = read_argument::<kvm_memory_attributes>(argument);
                    let set = match wanted {
                        Ok(wanted) if wanted.flags != 0 => return Answered::not_simulated(CALL),
                        Ok(to) => vm.set_memory_attributes(to.address, to.size, to.attributes),
                        Err(error) => Err(error),
                    };
                    (CALL, Answer::of(set))
                }
                _ => return Answered::not_simulated(ioctls::name(request)),
            }
        };
        Answered { call, answer }
    }

    fn create_guest_memfd(
        &mut self,
        vm: &SimVm,
        wanted: &kvm_create_guest_memfd,
    ) -> Result<RawFd, Errno> {
        // The simulation refuses unknown flags.
        let flags = GuestMemfdFlags::from_bits_retain(wanted.flags);
        let fd = vm.create_guest_memfd(wanted.size, flags)?.into_raw_fd();
        self.descriptors
            .insert(fd, Descriptor::GuestMemfd(vm.clone()));
        Ok(fd)
    }

    /// A system call on a guest_memfd other than `mmap`.
    pub(crate) fn file_call(&mut self, fd: RawFd, call: FileCall) -> Option<Answered> {
        let vm = self.descriptors.guest_memfd(fd)?;
        let name = match call {
            FileCall::Read => "read",
            FileCall::Write => "write",
            FileCall::ReadAt => "pread",
            FileCall::WriteAt => "pwrite",
            FileCall::Truncate(_) => "ftruncate",
            FileCall::Allocate { .. } => "fallocate",
        };
        let made = vm.file_call(borrowed(fd), call);
        Some(Answered {
            call: name,
            answer: Answer::of(made),
        })
    }

    /// # Safety
    /// As for `mmap`.
    pub(crate) unsafe fn mmap(&mut self, wanted: Mmap) -> Option<Answered> {
        const CALL: &str = "mmap";
        let vm = self.descriptors.guest_memfd(wanted.fd)?;
        let sharing = match wanted.flags & libc::MAP_TYPE {
            libc::MAP_SHARED => Sharing::Shared,
            libc::MAP_PRIVATE => Sharing::Private,
            _ => return Some(Answered::not_simulated(CALL)),
        };
        let other_flags = wanted.flags & !libc::MAP_TYPE & !libc::MAP_FIXED;
        if other_flags != 0 || wanted.protection != libc::PROT_READ | libc::PROT_WRITE {
            return Some(Answered::not_simulated(CALL));
        }
        let offset = u64::try_from(wanted.offset).map_err(|_| Errno::EINVAL);
        let mapped = offset.and_then(|offset| {
            let mapping = vm.map_file(borrowed(wanted.fd), offset, wanted.size as u64, sharing)?;
            let mut address = usize::try_from(mapping.address()).map_err(|_| Errno::ENOMEM)?;
            if wanted.flags & libc::MAP_FIXED != 0 {
                // SAFETY: the caller wants a mapping there, which replaces others.
                unsafe { move_mapping(address, wanted.size, wanted.address)? };
                address = wanted.address;
            }
            // From now on it is the program's, which unmaps it.
            std::mem::forget(mapping);
            Ok(address)
        });
        if let Ok(address) = mapped {
            self.mappings.insert(address, wanted.size);
        }
        let answer = match mapped {
            Ok(address) => Answer::Value(address.cast_signed()),
            Err(error) => Answer::Error(error),
        };
        Some(Answered { call: CALL, answer })
    }

    /// The bytes are then unmapped by the real kernel.
    pub(crate) fn munmap(&mut self, address: usize, size: usize) {
        self.mappings.remove(address, size);
    }

    /// A call about how the bytes of a mapping are to be kept.
    pub(crate) fn advise(
        &mut self,
        address: usize,
        size: usize,
        call: &'static str,
    ) -> Option<Answered> {
        let concerned = self.mappings.overlap(address, size);
        concerned.then(|| Answered::not_simulated(call))
    }
}

/// The answer to `KVM_CHECK_EXTENSION`.
fn extension(argument: usize, answer: impl Fn(u32) -> i32) -> Answered {
    let Ok(number) = u32::try_from(argument) else {
        let call = "KVM_CHECK_EXTENSION";
        return Answered {
            call,
            answer: Answer::Value(0),
        };
    };
    let value = match number {
        KVM_CAP_NR_VCPUS | KVM_CAP_MAX_VCPUS | KVM_CAP_MAX_VCPU_ID => {
            return Answered::not_simulated("KVM_CHECK_EXTENSION of vCPUs");
        }
        // About KVM_RUN, which is not simulated. The selftests require it of every VM.
        KVM_CAP_IMMEDIATE_EXIT => 1,
        _ => answer(number),
    };
    let call = match value {
        0 => "KVM_CHECK_EXTENSION, answered 0",
        _ => "KVM_CHECK_EXTENSION",
    };
    Answered {
        call,
        answer: Answer::Value(isize::try_from(value).unwrap_or(0)),
    }
}

fn descriptor(fd: Result<RawFd, Errno>) -> Answer {
    match fd {
        Ok(fd) => Answer::Value(isize::try_from(fd).unwrap_or(-1)),
        Err(error) => Answer::Error(error),
    }
}

fn borrowed<'a>(fd: RawFd) -> BorrowedFd<'a> {
    // SAFETY: the descriptor is one of a guest_memfd that the program has not closed,
    // nor does it while it waits for the answer to its call.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// A file that reads as "0\n".
fn zero() -> Result<RawFd, Errno> {
    let (mut to, from) = UnixStream::pair()?;
    to.write_all(b"0\n")?;
    Ok(from.into_raw_fd())
}

/// The CPUID leaves that the simulation knows: the widths of addresses (Intel SDM,
/// volume 2A, CPUID).
fn address_widths(physical_bits: u32) -> [kvm_cpuid_entry2; 3] {
    const VIRTUAL_BITS: u32 = 48;
    let leaf = |function, eax| kvm_cpuid_entry2 {
        function,
        eax,
        ..Default::default()
    };
    [
        leaf(0, 0),
        leaf(0x8000_0000, 0x8000_0008),
        leaf(0x8000_0008, VIRTUAL_BITS << 8 | physical_bits),
    ]
}

/// Writes a `kvm_cpuid2`, whose first member is the number of entries it has room for.
///
/// # Safety
/// The argument is 0 or the address of such a struct.
unsafe fn write_cpuid(argument: usize, entries: &[kvm_cpuid_entry2]) -> Result<(), Errno> {
    // SAFETY: passed on from the caller.
    let [room, _padding] = unsafe { read_argument::<[u32; 2]>(argument)? };
    let count = u32::try_from(entries.len()).map_err(|_| Errno::E2BIG)?;
    if room < count {
        return Err(Errno::E2BIG);
    }
    let header: *mut u32 = ptr::with_exposed_provenance_mut(argument);
    // SAFETY: the struct has room for so many entries, after a header of 8 bytes.
    unsafe {
        header.write_unaligned(count);
        let to: *mut kvm_cpuid_entry2 = header.add(2).cast();
        for (n, entry) in entries.iter().enumerate() {
            to.add(n).write_unaligned(*entry);
        }
    }
    Ok(())
}

/// Reads the struct that an ioctl's argument points to.
///
/// # Safety
/// The argument is 0 or the address of a `T`, and every bit pattern is a `T`.
unsafe fn read_argument<T: Copy>(argument: usize) -> Result<T, Errno> {
    if argument == 0 {
        return Err(Errno::EFAULT);
    }
    let from: *const T = ptr::with_exposed_provenance(argument);
    // SAFETY: passed on from the caller.
    Ok(unsafe { from.read_unaligned() })
}

/// Moves a whole mapping to an address.
///
/// # Safety
/// The mapping is the caller's, and so is what is mapped at the new address.
unsafe fn move_mapping(from: usize, size: usize, to: usize) -> Result<(), Errno> {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let (from, to): (*mut libc::c_void, *mut libc::c_void) = (
        ptr::with_exposed_provenance_mut(from),
        ptr::with_exposed_provenance_mut(to),
    );
    // SAFETY: passed on from the caller.
    let moved = unsafe { libc::mremap(from, size, size, flags, to) };
    match moved == libc::MAP_FAILED {
        true => Err(Errno::last()),
        false => Ok(()),
    }
}
