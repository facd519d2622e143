// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The two ioctls, each safe to call: numbers as in `linux/vfio.h`.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use vfio_bindings::bindings::vfio as uapi;
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ptr};
use vmm_sys_util::ioctl_io_nr;

use super::{EventFd, InterruptKind};
use crate::device::Device;

/// The letter and the first number of VFIO's ioctls.
const TYPE: u32 = uapi::VFIO_TYPE as u32;
const BASE: u32 = uapi::VFIO_BASE;

ioctl_io_nr!(VFIO_DEVICE_GET_IRQ_INFO, TYPE, BASE + 9);
ioctl_io_nr!(VFIO_DEVICE_SET_IRQS, TYPE, BASE + 10);

/// What is done with some vectors.
#[derive(Clone, Copy, Debug)]
pub(super) enum Action<'a> {
    /// All vectors of the kind are switched off.
    Disable,
    /// Vectors get eventfds, or lose them.
    Trigger(&'a [Option<&'a EventFd>]),
    /// One vector is signalled, as if by the device.
    Fire,
    /// The interrupt is masked.
    Mask,
    /// The interrupt is unmasked.
    Unmask,
    /// The interrupt is unmasked whenever the eventfd is signalled; or no longer.
    UnmaskBy(Option<&'a EventFd>),
}

impl Action<'_> {
    /// How errors call it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Disable => "VFIO_DEVICE_SET_IRQS(disable)",
            Self::Trigger(_) => "VFIO_DEVICE_SET_IRQS(eventfds)",
            Self::Fire => "VFIO_DEVICE_SET_IRQS(trigger)",
            Self::Mask => "VFIO_DEVICE_SET_IRQS(mask)",
            Self::Unmask => "VFIO_DEVICE_SET_IRQS(unmask)",
            Self::UnmaskBy(_) => "VFIO_DEVICE_SET_IRQS(unmask by eventfd)",
        }
    }

    /// How many vectors it concerns.
    pub(super) const fn count(self) -> usize {
        match self {
            Self::Disable => 0,
            Self::Trigger(triggers) => triggers.len(),
            Self::Fire | Self::Mask | Self::Unmask | Self::UnmaskBy(_) => 1,
        }
    }

    const fn flags(self) -> u32 {
        match self {
            Self::Disable | Self::Fire => {
                uapi::VFIO_IRQ_SET_ACTION_TRIGGER | uapi::VFIO_IRQ_SET_DATA_NONE
            }
            Self::Trigger(_) => uapi::VFIO_IRQ_SET_ACTION_TRIGGER | uapi::VFIO_IRQ_SET_DATA_EVENTFD,
            Self::Mask => uapi::VFIO_IRQ_SET_ACTION_MASK | uapi::VFIO_IRQ_SET_DATA_NONE,
            Self::Unmask => uapi::VFIO_IRQ_SET_ACTION_UNMASK | uapi::VFIO_IRQ_SET_DATA_NONE,
            Self::UnmaskBy(_) => uapi::VFIO_IRQ_SET_ACTION_UNMASK | uapi::VFIO_IRQ_SET_DATA_EVENTFD,
        }
    }

    /// `struct vfio_irq_set` as its 32-bit words, with what follows it.
    fn words(self, kind: InterruptKind, first: u16) -> Vec<u32> {
        let count = u32::try_from(self.count()).unwrap_or(u32::MAX);
        let mut words = vec![0, self.flags(), kind.index(), first.into(), count];
        match self {
            Self::Trigger(triggers) => words.extend(triggers.iter().map(|fd| descriptor(*fd))),
            Self::UnmaskBy(fd) => words.push(descriptor(fd)),
            Self::Disable | Self::Fire | Self::Mask | Self::Unmask => {}
        }
        if let Some(argsz) = words.len().checked_mul(4) {
            words[0] = u32::try_from(argsz).unwrap_or(0);
        }
        words
    }
}

/// A descriptor's number; -1 for none.
fn descriptor(fd: Option<&EventFd>) -> u32 {
    u32::from_ne_bytes(fd.map_or(-1, AsRawFd::as_raw_fd).to_ne_bytes())
}

pub(super) fn irq_info(device: &Device, index: u32) -> Result<uapi::vfio_irq_info, i32> {
    let mut info = uapi::vfio_irq_info {
        index,
        ..Default::default()
    };
    // The structure has 16 bytes.
    #[allow(clippy::cast_possible_truncation)]
    let argsz = size_of_val(&info) as u32;
    info.argsz = argsz;
    // SAFETY: `info` is of the type that the ioctl reads and writes, and says its size.
    let result =
        unsafe { ioctl_with_mut_ref(&device.as_fd(), VFIO_DEVICE_GET_IRQ_INFO(), &mut info) };
    done(result).map(|_| info)
}

/// What the kernel returns, which is not negative: above zero, how many vectors it would give.
pub(super) fn set_irqs(
    device: &Device,
    kind: InterruptKind,
    first: u16,
    action: Action<'_>,
) -> Result<u32, i32> {
    let words = action.words(kind, first);
    // SAFETY: the ioctl reads no more than the size that the first word says, which is that of
    // `words`, or 0, which it refuses. It has the layout of `struct vfio_irq_set` with as many
    // descriptors as it says; they are those of open eventfds, which the kernel takes references of.
    let result = unsafe { ioctl_with_ptr(&device.as_fd(), VFIO_DEVICE_SET_IRQS(), words.as_ptr()) };
    done(result)
}

fn done(result: i32) -> Result<u32, i32> {
    let failed = |_| io::Error::last_os_error().raw_os_error();
    u32::try_from(result).map_err(|error| failed(error).unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_as_long_as_it_says() {
        let fd = EventFd::new(0).unwrap();
        let number = u32::try_from(fd.as_raw_fd()).unwrap();
        let triggers = [None, Some(&fd)];
        let words = Action::Trigger(&triggers).words(InterruptKind::Msix, 3);
        assert_eq!(words, [28, 0x24, 2, 3, 2, u32::MAX, number]);
        let words = Action::Trigger(&triggers[1..]).words(InterruptKind::Request, 0);
        assert_eq!(words, [24, 0x24, 4, 0, 1, number]);
        let words = Action::Fire.words(InterruptKind::Error, 0);
        assert_eq!(words, [20, 0x21, 3, 0, 1]);
        let words = Action::Disable.words(InterruptKind::Msi, 0);
        assert_eq!(words, [20, 0x21, 1, 0, 0]);
        let words = Action::UnmaskBy(None).words(InterruptKind::Intx, 0);
        assert_eq!(words, [24, 0x14, 0, 0, 1, u32::MAX]);
    }
}
