// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The stack frames of a system call: which function of the program made it, and how
//! to go on as if that function had returned.
//!
//! libgcc's unwinder reads them, which the Rust runtime uses for panics too
//! (`_Unwind_Backtrace`, Itanium C++ ABI: Exception Handling).

use std::arch::asm;
use std::ffi::{c_int, c_void};

/// The most frames of a system call that are read.
const MOST_FRAMES: usize = 128;

/// The registers that a called function keeps on x86-64 (System V ABI), in a frame:
/// as they will be when the call returns that the frame is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Frame {
    rbx: usize,
    rbp: usize,
    r12: usize,
    r13: usize,
    r14: usize,
    r15: usize,
    rsp: usize,
    /// The instruction after the call.
    pub(crate) rip: usize,
}

/// The frames of this thread, from this function's outwards.
pub(crate) fn all() -> Vec<Frame> {
    let mut frames: Vec<Frame> = Vec::with_capacity(MOST_FRAMES);
    // SAFETY: `push` is called with each frame's context and with `frames`, which
    // outlives the call and is not used meanwhile.
    unsafe { _Unwind_Backtrace(push, (&raw mut frames).cast()) };
    frames
}

extern "C" fn push(context: *mut Context, frames: *mut c_void) -> c_int {
    const GO_ON: c_int = 0;
    const STOP: c_int = 4;
    // SAFETY: the unwinder passes what `all` gave it.
    let frames = unsafe { &mut *frames.cast::<Vec<Frame>>() };
    if frames.len() == MOST_FRAMES {
        return STOP;
    }
    // SAFETY: the context is valid during this call. The unwinder has saved the
    // registers with these DWARF numbers (System V ABI, figure 3.36) when it started.
    frames.push(unsafe {
        Frame {
            rbx: _Unwind_GetGR(context, 3),
            rbp: _Unwind_GetGR(context, 6),
            r12: _Unwind_GetGR(context, 12),
            r13: _Unwind_GetGR(context, 13),
            r14: _Unwind_GetGR(context, 14),
            r15: _Unwind_GetGR(context, 15),
            rsp: _Unwind_GetCFA(context),
            rip: _Unwind_GetIP(context),
        }
    });
    GO_ON
}

/// Goes on in a frame, after the call that it is in. That call returns nothing.
///
/// # Safety
/// The frame is one of this thread's that is still there, and the function that it
/// called returns nothing. No frame between here and there has anything to drop or is
/// needed: all are of C functions, or of functions of this library without
/// destructors. The process has no shadow stack, as glibc enables none by itself.
pub(crate) unsafe fn return_to(frame: Frame) -> ! {
    // SAFETY: these are all the registers that the frame's code expects to find
    // unchanged by a call. The x87 and SSE control words and the direction flag are
    // those of now, and no one has changed them. The frame is read before the stack
    // pointer moves above it.
    unsafe {
        asm!(
            "mov rbx, [rax]",
            "mov rbp, [rax + 8]",
            "mov r12, [rax + 16]",
            "mov r13, [rax + 24]",
            "mov r14, [rax + 32]",
            "mov r15, [rax + 40]",
            "mov rcx, [rax + 56]",
            "mov rsp, [rax + 48]",
            "jmp rcx",
            in("rax") &raw const frame,
            options(noreturn),
        )
    }
}

/// The unwinder's state for one frame.
#[repr(C)]
struct Context {
    _opaque: [u8; 0],
}

#[link(name = "gcc_s")]
unsafe extern "C" {
    fn _Unwind_Backtrace(
        trace: extern "C" fn(*mut Context, *mut c_void) -> c_int,
        data: *mut c_void,
    ) -> c_int;
    fn _Unwind_GetIP(context: *mut Context) -> usize;
    fn _Unwind_GetCFA(context: *mut Context) -> usize;
    fn _Unwind_GetGR(context: *mut Context, register: c_int) -> usize;
}
