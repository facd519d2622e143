// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! CPUID leaves by which a guest detects that its memory is private.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

use super::doorway::DOORWAY_PORT;

/// The first leaf: EAX is the last leaf, EBX, ECX and EDX are [`SIGNATURE`].
pub const SIGNATURE_LEAF: u32 = 0x4000_0100;
/// The second leaf: EAX is the features, EBX the first port of the
/// [doorway](super::doorway), ECX the frequency of the TSC in kHz. A page with KVM's
/// clock would have to be shared.
pub const FEATURE_LEAF: u32 = 0x4000_0101;
/// The signature, as the registers hold it.
pub const SIGNATURE: [u8; 12] = *b"PrivateMMIO\0";
/// EAX of [`FEATURE_LEAF`]: pages can be private.
pub const PRIVATE_PAGES: u32 = 1 << 0;
/// EAX of [`FEATURE_LEAF`]: there is a doorway.
pub const DOORWAY: u32 = 1 << 1;

/// The table has no room for two more leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the CPUID table is full")]
pub struct CpuidFull;

/// Adds both leaves. `tsc_khz` is 0 if it is not known.
///
/// # Errors
/// [`CpuidFull`].
pub fn add_leaves(cpuid: &mut CpuId, tsc_khz: u32) -> Result<(), CpuidFull> {
    let [ebx, ecx, edx] = [0, 4, 8].map(|at| {
        let [a, b, c, d] = [0, 1, 2, 3].map(|byte| SIGNATURE[at + byte]);
        u32::from_le_bytes([a, b, c, d])
    });
    let signature = kvm_cpuid_entry2 {
        function: SIGNATURE_LEAF,
        eax: FEATURE_LEAF,
        ebx,
        ecx,
        edx,
        ..Default::default()
    };
    let features = kvm_cpuid_entry2 {
        function: FEATURE_LEAF,
        eax: PRIVATE_PAGES | DOORWAY,
        ebx: DOORWAY_PORT.into(),
        ecx: tsc_khz,
        ..Default::default()
    };
    for leaf in [signature, features] {
        cpuid.push(leaf).map_err(|_| CpuidFull)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_reads_the_signature_from_ebx_ecx_and_edx() {
        let mut cpuid = CpuId::new(0).unwrap();
        add_leaves(&mut cpuid, 2_600_000).unwrap();
        let [first, second] = cpuid.as_slice() else {
            panic!("{cpuid:?}");
        };
        let registers = [first.ebx, first.ecx, first.edx].map(u32::to_le_bytes);
        assert_eq!(registers.concat(), b"PrivateMMIO\0");
        assert_eq!((first.function, first.eax), (0x4000_0100, 0x4000_0101));
        let features = (second.function, second.eax, second.ebx, second.ecx);
        assert_eq!(features, (0x4000_0101, 0b11, 0x610, 2_600_000));
    }
}
