// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The code of each vCPU. It loads, stores and fetches instructions all over
//! memory, and checks each answer itself.

use std::arch::global_asm;

/// The number of pages of the changing memory, a power of two.
pub(super) const PAGES: u64 = 16;

/// The number of possible answers at a page, from [`NOTHING`] on.
pub(super) const MOST_THINGS: u64 = 61;
/// The answer where there is no region.
pub(super) const NOTHING: u64 = 0;
/// Instructions can be fetched from the page.
pub(super) const FETCH: u64 = 1 << 61;
/// A store to the page may have no effect.
pub(super) const NO_STORE: u64 = 1 << 63;

/// The offset in a page of the words that vCPUs store to, one for each.
pub(super) const WORDS: u64 = 0x40;
/// The offset in a page of a function that returns the page's identity.
pub(super) const FUNCTION: u64 = 0x100;

/// The words of a vCPU's line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// The number of accesses that the vCPU has begun.
    Begun,
    Loads,
    Stores,
    Fetches,
    /// The number of loads and fetches during which more than one commit began
    /// or ended.
    Unchecked,
    Number,
    /// The first wrong answer: the page, the answer, the allowed answers, and
    /// the commit's number before and after the access.
    WrongPage,
    WrongThing,
    WrongMay,
    WrongBefore,
    WrongAfter,
}

// RDI: the vCPU's line. RSI: the number of commits begun and ended, followed by
// the allowed answers of each page, one bit each. RBX: the memory. R15, R14,
// R13: a random number, and the constants that produce the next one.
//
// The allowed answers are read before and after the access. They grow before a
// commit begins, and shrink after it has returned.
global_asm!(
    r#"
    .pushsection .rodata.guest_sees, "a", @progbits
    .globl guest_sees_code
    .globl guest_sees_code_end
guest_sees_code:
.Lnext:
    inc qword ptr [rdi]
    imul r15, r14
    add r15, r13
    mov rcx, r15
    shr rcx, 40
    and ecx, {pages} - 1
    mov rdx, rcx
    shl rdx, 12
    add rdx, rbx
    mov rax, r15
    shr rax, 60
    mov r8, [rsi]
    mov r9, [rsi + 8*rcx + 8]
    bt r9, 61
    jc .Laccess
    mov r11, r15 // An exit takes as long as very many other accesses.
    shr r11, 50
    test r11d, 255
    jnz .Lnext

.Laccess:
    cmp eax, 11
    ja .Lfetch
    cmp eax, 6
    ja .Lstore

.Lload:
    mov r10, [rdx]
    lea r12, [rdi + 8]

.Lcheck: // R10 has answered; the access counts at R12.
    mov r11, [rsi + 8*rcx + 8]
    or r9, r11
    mov rax, [rsi]
    sub rax, r8
    cmp rax, 1
    ja .Lunchecked
    cmp r10, {most} - 1
    ja .Lwrong
    bt r9, r10
    jnc .Lwrong
    inc qword ptr [r12]
    jmp .Lnext

.Lstore: // A token that no one else stores.
    mov rax, [rdi + 40]
    mov r10, r8
    shl r10, 16
    mov r11, rcx
    shl r11, 8
    or r10, r11
    or r10, rax
    mov [rdx + 8*rax + {words}], r10
    mov r11, [rdx + 8*rax + {words}]
    inc qword ptr [rdi + 16]
    test r8d, 1 // A commit was under way.
    jnz .Lnext
    bt r9, 63
    jc .Lnext
    cmp r8, [rsi]
    jne .Lnext
    cmp r11, r10
    je .Lnext
    mov r10, r11
    jmp .Lwrong

.Lfetch:
    bt r9, 61
    jnc .Lload
    lea rax, [rdx + {function}]
    call rax
    mov r10, rax
    lea r12, [rdi + 24]
    jmp .Lcheck

.Lunchecked:
    inc qword ptr [rdi + 32]
    jmp .Lnext

.Lwrong:
    mov [rdi + 48], rcx
    mov [rdi + 56], r10
    mov [rdi + 64], r9
    mov [rdi + 72], r8
    mov rax, [rsi]
    mov [rdi + 80], rax
    hlt
    jmp .Lwrong
guest_sees_code_end:
    .popsection
    "#,
    pages = const PAGES,
    most = const MOST_THINGS,
    words = const WORDS,
    function = const FUNCTION,
);

unsafe extern "C" {
    safe static guest_sees_code: [u8; 0];
    safe static guest_sees_code_end: [u8; 0];
}

/// The instructions of a vCPU.
pub(super) fn code() -> &'static [u8] {
    let (start, end) = (&raw const guest_sees_code, &raw const guest_sees_code_end);
    let len = end.addr() - start.addr();
    // SAFETY: both are labels of the section above, which is initialised and
    // never written, with nothing but the instructions between them.
    unsafe { std::slice::from_raw_parts(start.cast(), len) }
}

/// The function that returns `thing`: mov eax, thing; ret.
pub(super) fn function(thing: u64) -> [u8; 6] {
    let [a, b, c, d, ..] = thing.to_le_bytes();
    [0xb8, a, b, c, d, 0xc3]
}
