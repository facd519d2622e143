// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Retries system calls that a signal interrupts.

use crate::vm::errno::Errno;

/// The maximum number of calls. Signals can arrive faster than a long call ends,
/// and the thread must not get stuck.
const MOST_CALLS: usize = 64;

/// Retries a call while it fails with EINTR, which means that it changed nothing.
///
/// # Errors
/// The call's error; EINTR after the maximum number of calls.
pub(crate) fn call_again<T, E: Into<Errno>>(
    mut call: impl FnMut() -> Result<T, E>,
) -> Result<T, Errno> {
    for _ in 1..MOST_CALLS {
        match call().map_err(Into::into) {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
    call().map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_made_again_while_it_is_interrupted_and_not_for_ever() {
        // The number of interrupts, and the resulting number of calls.
        for (interrupts, calls, result) in [
            (0, 1, Ok(7)),
            (1, 2, Ok(7)),
            (MOST_CALLS - 1, MOST_CALLS, Ok(7)),
            (MOST_CALLS, MOST_CALLS, Err(Errno::EINTR)),
            (usize::MAX, MOST_CALLS, Err(Errno::EINTR)),
        ] {
            let mut made = 0;
            let called = call_again(|| {
                made += 1;
                match made > interrupts {
                    true => Ok(7),
                    false => Err(Errno::EINTR),
                }
            });
            assert_eq!((called, made), (result, calls), "{interrupts}");
        }
    }

    #[test]
    fn other_errors_are_the_result_at_once() {
        let mut made = 0;
        let called: Result<(), Errno> = call_again(|| {
            made += 1;
            Err(Errno::EAGAIN)
        });
        assert_eq!((called, made), (Err(Errno::EAGAIN), 1));
    }
}
