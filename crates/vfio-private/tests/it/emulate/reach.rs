// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! When a device is out of reach, and which writes make it so.

use proptest::prelude::*;
use vfio_private::{Cause, Reach, ReachEvent};

/// Where the capability of power management is.
const POWER: usize = 0xc8;

/// A header with memory decoding on, awake.
fn config() -> Vec<u8> {
    let mut config = vec![0; 256];
    config[0..4].copy_from_slice(&[0x86, 0x80, 0xd3, 0x10]);
    config[4] = 0x06;
    config[6] = 0x10;
    config[0x34] = u8::try_from(POWER).unwrap();
    config[POWER] = 1;
    config
}

#[test]
fn decoding_off_revokes_and_on_restores() {
    let on = Reach::of(&config()).unwrap();
    assert_eq!(on.missing(), None);
    let off = on.after_write(4, &[0x04, 0]);
    assert_eq!(on.event(off), Some(ReachEvent::Revoked(Cause::DecodeOff)));
    assert_eq!(off.event(on), Some(ReachEvent::Restored));
    // Bus mastering is no matter of reach.
    assert_eq!(on.event(on.after_write(4, &[0x02])), None);
}

#[test]
fn sleep_revokes_and_only_both_conditions_restore() {
    let awake = Reach::of(&config()).unwrap();
    let asleep = awake.after_write(POWER as u64 + 4, &[3]);
    assert_eq!(
        awake.event(asleep),
        Some(ReachEvent::Revoked(Cause::Asleep))
    );
    let both = asleep.after_write(4, &[0]);
    assert_eq!(asleep.event(both), None);
    let off = both.after_write(POWER as u64 + 4, &[0]);
    assert_eq!(both.event(off), None);
    assert_eq!(
        off.event(off.after_write(4, &[2])),
        Some(ReachEvent::Restored)
    );
    // D1 and D2 are light sleep: registers answer.
    for state in [1, 2] {
        assert_eq!(
            awake.event(awake.after_write(POWER as u64 + 4, &[state])),
            None
        );
    }
}

#[test]
fn a_device_without_power_management_never_sleeps() {
    let mut config = config();
    config[6] = 0;
    let reach = Reach::of(&config).unwrap();
    assert_eq!(reach.after_write(POWER as u64 + 4, &[3]), reach);
}

proptest! {
    /// Writing to the bytes and reading them again is the same as asking.
    #[test]
    fn any_writes_end_where_the_bytes_say(
        writes in prop::collection::vec(
            (
                prop_oneof![0_usize..0x34, 0xc9_usize..0x100],
                prop::collection::vec(any::<u8>(), 0..6),
            ),
            1..20,
        )
    ) {
        let mut bytes = config();
        let mut reach = Reach::of(&bytes).unwrap();
        for (offset, data) in writes {
            let mut next = bytes.clone();
            for (at, byte) in (offset..).zip(&data) {
                // What says where registers are cannot be written.
                let is_fixed = matches!(at, 6 | 7 | 0xe | 0x34 | POWER | 0xc9) || at >= 0x100;
                if !is_fixed {
                    next[at] = *byte;
                }
            }
            let due = Reach::of(&next);
            prop_assume!(due.is_ok());
            reach = reach.after_write(offset as u64, &data);
            prop_assert_eq!(Ok(reach), due);
            bytes = next;
        }
    }

    #[test]
    fn no_write_is_too_far_out(offset in any::<u64>(), data in prop::collection::vec(any::<u8>(), 0..9)) {
        let reach = Reach::of(&config()).unwrap();
        let _ = reach.event(reach.after_write(offset, &data));
        if offset > 0x1000 {
            prop_assert_eq!(reach.after_write(offset, &data), reach);
        }
    }
}

/// The same with function level resets, by PCI Express or by the capability of advanced features.
fn with_resets(id: u8, capable: usize) -> Reach {
    let mut config = config();
    (config[POWER + 1], config[0x40]) = (0x40, id);
    config[0x40 + capable] = 0x13;
    Reach::of(&config).unwrap()
}

#[test]
fn a_reset_revokes_before_and_restores_after() {
    let revoked = Some(ReachEvent::Revoked(Cause::Reset));
    let restored = Some(ReachEvent::Restored);
    for (id, capable, offset, bit) in [(0x10, 7, 0x49, 0x80), (0x13, 3, 0x44, 1)] {
        let reach = with_resets(id, capable);
        assert!(reach.is_reset(offset, &[bit]) && !reach.is_reset(offset, &[!bit]));
        assert!(!reach.is_reset(offset - 1, &[0xff]));
        let change = reach.on_write(offset - 1, &[0, bit]);
        assert_eq!((change.before, change.after), (revoked, restored));
        assert_eq!(change.next, reach);
        assert_eq!(reach.on_reset(), change);
        // Without decoding nobody has anything to lose.
        let off = reach.on_write(4, &[0]);
        let due = (Some(ReachEvent::Revoked(Cause::DecodeOff)), None);
        assert_eq!((off.before, off.after), due);
        let change = off.next.on_reset();
        assert_eq!((change.before, change.after), (None, None));
        let on = off.next.on_write(4, &[2]);
        assert_eq!((on.before, on.after), (None, restored));
        // One that sleeps wakes.
        let asleep = reach.on_write(POWER as u64 + 4, &[3]).next;
        let change = asleep.on_reset();
        assert_eq!((change.before, change.after), (None, restored));
        assert_eq!(change.next, reach);
        // A device that cannot be reset is not.
        let unable = with_resets(id, 0x20);
        assert!(!unable.is_reset(offset, &[bit]));
    }
}
