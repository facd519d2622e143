// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One of the two VMs that are compared.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use kvm_bindings::kvm_userspace_memory_region2;
use kvm_slots::exit::MmioHandler;
use kvm_slots::{Errno, GuestMemfdFlags, Vm};

use super::op::{Answer, BACKING_FD, Exit, File, Host, Op, Region};
use crate::subject::{Arena, Pin, Subject, peek, poke};

/// The number of guest_memfds that can exist at a time.
pub const FILES: usize = 3;
/// The number of pages that the host keeps for the guest.
pub const ARENA_PAGES: usize = 48;
/// No descriptor of this process has this number.
const CLOSED: u32 = 99_999;

/// A VM, with the files and memory of its VMM.
#[derive(Debug)]
pub struct Side<S> {
    subject: S,
    files: [Option<OwnedFd>; FILES],
    wrong: Vec<OwnedFd>,
    pins: Vec<Pin>,
    /// Dropped after `subject`, whose slots name it.
    arena: Arena,
}

impl<S: Subject> Side<S> {
    /// Wraps a new VM.
    ///
    /// # Errors
    /// The files that are not guest_memfds cannot be created.
    pub fn new(subject: S) -> Result<Self, String> {
        let null = std::fs::File::open("/dev/null").map_err(|e| e.to_string())?;
        let mut wrong = vec![null.into()];
        // A guest_memfd of another VM, if the kernel has them.
        let other = subject.another(false)?;
        wrong.extend(
            other
                .vm()
                .create_guest_memfd(1 << 16, GuestMemfdFlags::empty()),
        );
        let arena = subject.arena(ARENA_PAGES);
        Ok(Self {
            subject,
            files: [const { None }; FILES],
            wrong,
            pins: Vec::new(),
            arena,
        })
    }

    /// Makes an operation and returns its answer.
    pub fn run(&mut self, op: &Op) -> Answer {
        match op {
            Op::Set(region) => Answer::Done(self.set(region)),
            Op::Create { at, size, flags } => Answer::Done(self.create(*at, *size, *flags)),
            Op::Close(at) => {
                self.files[*at] = None;
                Answer::Done(Ok(()))
            }
            Op::Call(at, call) => Answer::Done(match &self.files[*at] {
                Some(file) => self.subject.file_call(file.as_fd(), *call),
                None => Err(Errno::EBADF),
            }),
            Op::Map { .. } => Answer::Value(self.map(op)),
            Op::Host(page, change) => {
                self.arena.change(*page, *change);
                Answer::Done(Ok(()))
            }
            Op::HostLoad(offset) => Answer::Value(self.arena.read(*offset)),
            Op::HostStore(offset, value) => {
                Answer::Done(self.arena.write(*offset, &value.to_le_bytes()))
            }
            Op::Answering(on) => {
                let set = self.subject.set_answering(*on);
                Answer::Done(set.map_err(|_| Errno::EIO))
            }
            Op::Attributes {
                gpa,
                size,
                attributes,
            } => {
                let vm = self.subject.vm();
                Answer::Done(vm.set_memory_attributes(*gpa, *size, *attributes))
            }
            Op::FileAttributes {
                at,
                offset,
                size,
                attributes,
            } => Answer::Converted(match &self.files[*at] {
                Some(file) => {
                    let vm = self.subject.vm();
                    vm.set_file_attributes(file.as_fd(), *offset, *size, *attributes)
                }
                None => Err(Errno::EBADF.into()),
            }),
            Op::Pin { at, offset, size } => Answer::Done(self.pin(*at, *offset, *size)),
            Op::Unpin => {
                self.pins.clear();
                Answer::Done(Ok(()))
            }
            Op::PreFault(range) => {
                let mut left = *range;
                let result = self.subject.pre_fault(&mut left);
                Answer::PreFault(result, left)
            }
            Op::Access { gpa, size, store } => {
                let mut exits = Exits::default();
                let result = self.subject.access(*gpa, *size, *store, &mut exits);
                Answer::Access(result, exits.0)
            }
        }
    }

    fn set(&self, region: &Region) -> Result<(), Errno> {
        let fd = match region.file {
            File::At(at) => {
                let file = self.files[at].as_ref().map(AsFd::as_fd);
                file.map_or(CLOSED, number)
            }
            File::Device => self.subject.dma_buf().map_or(CLOSED, number),
            File::Closed => CLOSED,
            File::Wrong(which) => number(self.wrong[which % self.wrong.len()].as_fd()),
        };
        let low = u32::try_from(region.padding & 0xffff_ffff).unwrap_or(0);
        let mut raw = kvm_userspace_memory_region2 {
            slot: region.slot,
            flags: region.flags,
            guest_phys_addr: region.gpa,
            memory_size: region.size,
            userspace_addr: match region.host {
                Host::Arena(offset) => self.arena.address(0) + offset,
                Host::Raw(address) => address,
            },
            guest_memfd: fd,
            guest_memfd_offset: region.offset,
            pad1: low,
            ..Default::default()
        };
        raw.pad2.fill(region.padding);
        if region.flags & BACKING_FD != 0 {
            (raw.pad1, raw.pad2[0]) = (fd, region.offset);
        }
        // SAFETY: arena addresses lie in the arena or its guard pages, which
        // outlive the VM and to which there are no references. This process has
        // no memory at raw addresses.
        unsafe { self.subject.set(&raw, region.v1) }
    }

    fn create(&mut self, at: usize, size: u64, flags: u64) -> Result<(), Errno> {
        let flags = GuestMemfdFlags::from_bits_retain(flags);
        let made = self.subject.vm().create_guest_memfd(size, flags)?;
        self.files[at] = Some(made);
        Ok(())
    }

    fn pin(&mut self, at: usize, offset: u64, size: u64) -> Result<(), Errno> {
        let file = self.files[at].as_ref().ok_or(Errno::EBADF)?;
        self.pins
            .push(self.subject.pin(file.as_fd(), offset, size)?);
        Ok(())
    }

    fn map(&self, op: &Op) -> Result<[u8; 8], Errno> {
        let &Op::Map {
            at,
            offset,
            size,
            sharing,
            store,
        } = op
        else {
            return Err(Errno::EINVAL);
        };
        let file = self.files[at].as_ref().ok_or(Errno::EBADF)?;
        let mapping = self.subject.map_file(file.as_fd(), offset, size, sharing)?;
        if let Some(value) = store {
            // SAFETY: the mapping is new, so there are no references to it.
            unsafe { poke(mapping.address(), &value.to_le_bytes()) }?;
        }
        peek(mapping.address())
    }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    u32::from_ne_bytes(fd.as_raw_fd().to_ne_bytes())
}

/// Answers every load with its address, and records the exits.
#[derive(Debug, Default)]
struct Exits(Vec<Exit>);

impl MmioHandler for Exits {
    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) {
        for (byte, at) in data.iter_mut().zip(gpa..) {
            *byte = at.to_le_bytes()[0] ^ 0x5a;
        }
        let (write, data) = (false, data.to_vec());
        self.0.push(Exit { write, gpa, data });
    }

    fn mmio_write(&mut self, gpa: u64, data: &[u8]) {
        let (write, data) = (true, data.to_vec());
        self.0.push(Exit { write, gpa, data });
    }
}
