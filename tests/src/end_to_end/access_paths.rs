// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The same accesses to the same registers, over each path: private, mapped and
//! trapped.

use std::sync::Arc;

use kvm_slots::sim::VmType;
use vfio_private::AddrRange;
use vfio_private::device::Device;

use super::machine::{A, Guest, Memory, Trapped, machine};
use super::registers::factorial;
use super::{at, dma_buf, open, same};
use crate::vfio::Model;
use crate::vfio::regions;

/// The path by which a guest reaches a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// Directly, through a slot without a host address.
    Private,
    /// Directly, through a mapping that the VMM has as well.
    Mapped,
    /// By exits, for which the VMM makes system calls.
    Trapped,
}

impl By {
    pub(super) const ALL: [Self; 3] = [Self::Private, Self::Mapped, Self::Trapped];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Mapped => "mapped",
            Self::Trapped => "trapped",
        }
    }
}

/// A guest that reaches a whole BAR at [`A`] over this path.
pub(super) fn guest_with(
    vm_type: VmType,
    device: &Arc<Device>,
    bar: u8,
    by: By,
) -> Result<(Guest, Memory), String> {
    let (mut guest, mut memory) = machine(vm_type)?;
    let open = regions::bar(device, bar)?;
    let size = open.bar.size();
    match by {
        By::Private => {
            let (_, file) = dma_buf(device, bar)?;
            memory.show_accepted(&file, 0, size, A)?;
        }
        By::Mapped => {
            let all = AddrRange::new(0, size.into()).ok_or("a BAR")?;
            let mapping = device.map(&open.info, all).map_err(at("a mapping"))?;
            memory.show_mapped(&Arc::new(mapping), A)?;
        }
        By::Trapped => {
            let part = Trapped {
                device: device.clone(),
                info: open.info,
                offset: 0,
                emulated: false,
            };
            guest.exits.trapped.insert(A, part);
        }
    }
    Ok((guest, memory))
}

/// Registers, and the values to store. A register without values is only read.
type Script = &'static [(u64, &'static [u32])];

/// edu: the identification, and an inverter.
const EDU: Script = &[(0, &[]), (4, &[0, 0x1234_5678, u32::MAX]), (0x20, &[])];
/// e1000e: the device status, the VLAN ether type, a receive address and the
/// first entries of the multicast table. Every register except the status holds
/// what is written.
const E1000E: Script = &[
    (0x8, &[]),
    (0x38, &[0x8100, 0x9100]),
    (0x5400, &[0x1234_5678]),
    (0x5200, &[1, 0xffff_0000]),
    (0x5204, &[0xdead_beef]),
];
/// ivshmem: words all over its memory.
const IVSHMEM: Script = &[
    (0, &[1, 2]),
    (0x1234, &[0x0bad_cafe]),
    (0x7_fffc, &[u32::MAX, 0]),
    (0xf_fffc, &[0x5555_aaaa]),
];

pub(super) fn three_ways(vm_type: VmType) -> Result<(), String> {
    let scripts = [
        (Model::Edu, 0, EDU),
        (Model::E1000e, 0, E1000E),
        (Model::Ivshmem, 2, IVSHMEM),
    ];
    for (model, bar, script) in scripts {
        let device = Arc::new(open(model)?);
        let mut seen = Vec::new();
        for by in By::ALL {
            let (mut guest, _memory) = guest_with(vm_type, &device, bar, by)?;
            seen.push(play(&mut guest, script)?);
            if model == Model::Edu {
                same("10!", factorial(&mut guest, A, 10)?, 3_628_800)?;
            }
            let exits = guest.exits.count;
            if (by == By::Trapped) != (exits > 0) {
                return Err(format!("{model} {}: {exits} exits", by.word()));
            }
        }
        same(&format!("{model}, mapped"), &seen[1], &seen[0])?;
        same(&format!("{model}, trapped"), &seen[2], &seen[0])?;
    }
    Ok(())
}

/// The values that are loaded before and after each store.
fn play(guest: &mut Guest, script: Script) -> Result<Vec<u32>, String> {
    let mut seen = Vec::new();
    for (offset, stores) in script {
        // Does not depend on what an earlier path left there.
        if stores.is_empty() {
            seen.push(guest.load(A + offset)?);
        }
        for value in *stores {
            guest.store(A + offset, *value)?;
            seen.push(guest.load(A + offset)?);
        }
    }
    Ok(seen)
}
