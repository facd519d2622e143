// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The code of the boot image: pure functions from addresses to machine code.
//!
//! It runs in 64-bit mode with interrupts off, and without a stack. All addresses are
//! below 4 GiB, where virtual and physical addresses are equal. KVM need not emulate an
//! instruction of it: there is no MMIO and no string I/O.

use kvm_bindings::CpuId;
use kvm_slots::uapi::HYPERCALL_MAP_GPA_RANGE;

use super::fault::{FAULT_PORT, LoaderFault};
use crate::boot::x86_64::layout::{PAGE_TABLES, ZERO_PAGE};

/// The instruction for hypercalls, which depends on the processor's vendor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hypercall {
    /// `vmcall`, for Intel and Zhaoxin.
    Vmcall,
    /// `vmmcall`, for AMD and Hygon.
    Vmmcall,
}

impl Hypercall {
    /// The instruction for a vCPU with these CPUID leaves.
    pub fn of(cpuid: &CpuId) -> Self {
        let vendor = cpuid.as_slice().iter().find(|leaf| leaf.function == 0);
        // The first letters of "AuthenticAMD" and "HygonGenuine".
        match vendor.map(|leaf| leaf.ebx.to_le_bytes()) {
            Some([b'A' | b'H', b'u' | b'y', b't' | b'g', b'h' | b'o']) => Self::Vmmcall,
            _ => Self::Vmcall,
        }
    }

    /// The instruction.
    fn code(self) -> [u8; 3] {
        match self {
            Self::Vmcall => [0x0f, 0x01, 0xc1],
            Self::Vmmcall => [0x0f, 0x01, 0xd9],
        }
    }
}

/// Bit 4 of the attributes: encrypted.
const ENCRYPTED: u8 = 1 << 4;

/// An entry of the copy table. A length of 0 ends the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyEntry {
    /// The address in the staging area.
    pub from: u64,
    /// The address in private RAM.
    pub to: u64,
    /// The number of bytes.
    pub length: u64,
    /// Their [`checksum`].
    pub checksum: u64,
}

impl CopyEntry {
    /// The number of bytes of an entry.
    pub const SIZE: u64 = 32;

    /// The entry as [`loader`] reads it.
    pub fn bytes(self) -> [u8; 32] {
        let words = [self.from, self.to, self.length, self.checksum];
        let mut bytes = [0; 32];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x100_0000_01b3;

/// The checksum of a piece: FNV-1a of 64 bits. Any KVM can run it, and one that
/// emulates its guest has no `crc32` instruction.
pub fn checksum(bytes: &[u8]) -> u64 {
    let mix = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(FNV_PRIME);
    bytes.iter().fold(FNV_OFFSET, mix)
}

/// Code that copies what the table at `table` lists, compares the checksum of each
/// copy, and jumps to `next`.
pub fn loader(table: u32, next: u32) -> Vec<u8> {
    let [t0, t1, t2, t3] = table.to_le_bytes();
    let [n0, n1, n2, n3] = next.to_le_bytes();
    let [o0, o1, o2, o3, o4, o5, o6, o7] = FNV_OFFSET.to_le_bytes();
    let [p0, p1, p2, p3, p4, p5, p6, p7] = FNV_PRIME.to_le_bytes();
    #[rustfmt::skip]
    let mut code = vec![
        0xfa,                         //       cli
        0xfc,                         //       cld
        0xbb, t0, t1, t2, t3,         //       mov ebx, table
        // Per entry:
        0x48, 0x8b, 0x4b, 0x10,       // entry: mov rcx, [rbx + 16]
        0x48, 0x85, 0xc9,             //       test rcx, rcx
        0x74, 0x3f,                   //       jz done
        0x48, 0x8b, 0x33,             //       mov rsi, [rbx]
        0x48, 0x8b, 0x7b, 0x08,       //       mov rdi, [rbx + 8]
        0xf3, 0xa4,                   //       rep movsb
        // The checksum of the copy, not of the source:
        0x48, 0x8b, 0x73, 0x08,       //       mov rsi, [rbx + 8]
        0x48, 0x8b, 0x4b, 0x10,       //       mov rcx, [rbx + 16]
        0x48, 0xb8,                   //       mov rax, OFFSET
        o0, o1, o2, o3, o4, o5, o6, o7,
        0x48, 0xba,                   //       mov rdx, PRIME
        p0, p1, p2, p3, p4, p5, p6, p7,
        0x32, 0x06,                   // sum:  xor al, [rsi]
        0x48, 0x0f, 0xaf, 0xc2,       //       imul rax, rdx
        0x48, 0xff, 0xc6,             //       inc rsi
        0x48, 0xff, 0xc9,             //       dec rcx
        0x75, 0xf2,                   //       jnz sum
        0x48, 0x3b, 0x43, 0x18,       //       cmp rax, [rbx + 24]
        0x75, 0x0d,                   //       jne failed
        0x48, 0x83, 0xc3, 0x20,       //       add rbx, 32
        0xeb, 0xb8,                   //       jmp entry
        0xb8, n0, n1, n2, n3,         // done: mov eax, next
        0xff, 0xe0,                   //       jmp rax
    ];
    code.extend(failed(LoaderFault::Checksum));
    code
}

/// Code in private RAM that makes the staging area private and starts the kernel.
pub fn trampoline(hypercall: Hypercall, area: u32, pages: u32, entry: u64) -> Vec<u8> {
    let mut code = Vec::new();
    // The page tables in private RAM show the same code.
    code.extend(mov(EAX, low(PAGE_TABLES)));
    code.extend([0x0f, 0x22, 0xd8]); // mov cr3, rax
    code.extend(mov(EAX, HYPERCALL_MAP_GPA_RANGE.into()));
    code.extend(mov(EBX, area));
    code.extend(mov(ECX, pages));
    code.extend(mov(EDX, ENCRYPTED.into()));
    code.extend(hypercall.code());
    code.extend([0x48, 0x85, 0xc0]); // test rax, rax
    code.extend([0x75, 0x11]); // jnz failed
    code.extend(mov(ESI, low(ZERO_PAGE)));
    code.extend([0x48, 0xb8]); // mov rax, entry
    code.extend(entry.to_le_bytes());
    code.extend([0xff, 0xe0]); // jmp rax
    code.extend(failed(LoaderFault::NotPrivate));
    code
}

/// Reports a fault, and halts.
fn failed(fault: LoaderFault) -> Vec<u8> {
    let [p0, p1] = FAULT_PORT.to_le_bytes();
    let mut code = vec![0x66, 0xba, p0, p1]; // mov dx, FAULT_PORT
    code.extend(mov(EAX, fault as u32));
    code.push(0xef); // out dx, eax
    code.extend([0xf4, 0xeb, 0xfd]); // halt: hlt; jmp halt
    code
}

/// The opcodes of `mov register, imm32`, which clears the register's upper half.
const EAX: u8 = 0xb8;
const ECX: u8 = 0xb9;
const EDX: u8 = 0xba;
const EBX: u8 = 0xbb;
const ESI: u8 = 0xbe;

fn mov(opcode: u8, value: u32) -> [u8; 5] {
    let [a, b, c, d] = value.to_le_bytes();
    [opcode, a, b, c, d]
}

/// A number below 1 MiB, such as an address of the layout.
pub(super) const fn low(number: u64) -> u32 {
    assert!(number < 1 << 20);
    #[expect(clippy::cast_possible_truncation, reason = "checked above")]
    let low = number as u32;
    low
}

#[cfg(test)]
mod tests {
    use kvm_bindings::kvm_cpuid_entry2;

    use super::*;

    #[test]
    fn the_vendor_chooses_the_hypercall_instruction() {
        let of = |vendor: &[u8; 4]| {
            let leaf = kvm_cpuid_entry2 {
                ebx: u32::from_le_bytes(*vendor),
                ..Default::default()
            };
            Hypercall::of(&CpuId::from_entries(&[leaf]).unwrap())
        };
        assert_eq!(of(b"Auth"), Hypercall::Vmmcall);
        assert_eq!(of(b"Hygo"), Hypercall::Vmmcall);
        assert_eq!(of(b"Genu"), Hypercall::Vmcall);
    }

    #[test]
    fn the_checksum_is_fnv_1a() {
        // Test vectors of the algorithm's authors.
        assert_eq!(checksum(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(checksum(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn jumps_land_on_instructions() {
        let fault = failed(LoaderFault::Checksum).len();
        let code = loader(0x1111_1111, 0x2222_2222);
        // From the end of each jump.
        for (jump, target) in [
            (0x10, code.len() - fault - 7),
            (0x49, code.len() - fault),
            (0x4f, 7),
            (0x43, 0x35),
        ] {
            let displacement = i64::from(code[jump - 1].cast_signed());
            assert_eq!(jump as i64 + displacement, target as i64, "{jump:#x}");
        }
        let code = trampoline(Hypercall::Vmmcall, 0, 1, 0);
        let jump = code.windows(2).position(|two| two == [0x75, 0x11]).unwrap();
        assert_eq!(jump + 2 + 0x11, code.len() - fault);
    }
}
