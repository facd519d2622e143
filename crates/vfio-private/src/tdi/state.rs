// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The states of a TDI, and what changes them: outcomes of steps, and events.

use core::fmt;

/// Identifies a TEE device interface (TDI): TDISP's `FUNCTION_ID`.
///
/// The requester ID in bits 15:0, the segment in bits 23:16, and whether there is a segment in bit 24
/// (PCI Express Base Specification 6.1, section 11.3). Two interfaces of a VMM must not have the same
/// ID: reports are bound to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceId(pub u32);

/// For example `TDI 0x100`.
impl fmt::Display for InterfaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TDI {:#x}", self.0)
    }
}

/// The state of a TDI, as far as it is known.
///
/// The first four are those of the specification (section 11.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TdiState {
    /// `CONFIG_UNLOCKED`: the host configures the device. It must not be trusted.
    Unlocked,
    /// `CONFIG_LOCKED`: the configuration is fixed, so that the guest can inspect it.
    Locked,
    /// `RUN`: the guest has approved the device and uses it.
    Running,
    /// `ERROR`: the configuration has changed, or the device has failed. The device answers no access
    /// to private registers. Only a stop or a reset leads out.
    Error,
    /// The device was removed. Only a confirmed reset, of its successor in the slot, leads out.
    Removed,
    /// The outcome of a step is not known. The TDI may be in any state. A confirmed stop or reset leads
    /// out.
    Unknown,
}

impl TdiState {
    /// Whether the configuration is known to be locked: in `CONFIG_LOCKED` and `RUN`.
    pub const fn is_locked(self) -> bool {
        matches!(self, Self::Locked | Self::Running)
    }
}

/// For example `CONFIG_LOCKED`.
impl fmt::Display for TdiState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unlocked => "CONFIG_UNLOCKED",
            Self::Locked => "CONFIG_LOCKED",
            Self::Running => "RUN",
            Self::Error => "ERROR",
            Self::Removed => "removed",
            Self::Unknown => "unknown",
        })
    }
}

/// Whether the platform lets the TDI access the guest's private memory.
///
/// Private memory must not be given to another owner unless this is [`Blocked`](Self::Blocked).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
// Exhaustive: memory is given to another owner only if access is known to be blocked.
pub enum Dma {
    /// It does not.
    Blocked,
    /// It does.
    Allowed,
    /// It may: the outcome of a step is not known.
    Unknown,
}

/// For example `blocked`.
impl fmt::Display for Dma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blocked => "blocked",
            Self::Allowed => "allowed",
            Self::Unknown => "unknown",
        })
    }
}

/// The outcome of a [`Step`](super::Step).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
// Exhaustive: a step has succeeded, or failed, or neither is known.
pub enum Outcome {
    /// The step was carried out.
    Succeeded,
    /// The step was refused, and nothing has changed.
    Failed,
    /// Neither is known, for example after a timeout or a lost reply.
    ///
    /// The step may still be carried out, but not after a later step of the same TDI is answered, and not
    /// after a reset; by the device, not after its removal. If a platform cannot guarantee this order,
    /// report the outcome only once the request is cancelled.
    Unknown,
}

/// For example `failed`.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Unknown => "has an unknown outcome",
        })
    }
}

/// An event that no step caused. It is possible in every state.
///
/// Report events and outcomes in the order in which they occur. A notification may come late: if the
/// TDI was stopped or reset since, ask for its state (`GET_DEVICE_INTERFACE_STATE`, section 11.3.12)
/// before reporting it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event {
    /// The TDI entered `ERROR` (section 11.2), for example because its configuration was written or a
    /// function level reset was started while it was locked.
    Error,
    /// The device was removed without a warning. The platform's mappings of its registers still exist.
    Removed,
    /// The device was reset and is in `CONFIG_UNLOCKED`, and the platform has confirmed that it holds
    /// nothing of the TDI any more, neither mappings nor access to memory. Report a reset without that
    /// confirmation as [`Error`](Self::Error).
    Reset,
}

/// For example `the device was removed`.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "the TDI entered ERROR",
            Self::Removed => "the device was removed",
            Self::Reset => "the device was reset",
        })
    }
}
