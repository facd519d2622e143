// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! CPUID: what KVM supports, with the topology of one socket.
//!
//! KVM reports leaves of the host's processor that the call happened to run on. All
//! leaves about the topology are therefore set here, for both vendors (Intel SDM
//! volume 2A, CPUID; AMD APM volume 3, appendix E).

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};
use kvm_slots::Errno;

use super::CpuError;

/// Leaf 1, ECX: the local APIC's timer can wait for a value of the TSC.
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1, ECX: there is a hypervisor.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: the package has several logical processors.
const HTT: u32 = 1 << 28;
/// Leaf 0x8000_0001, ECX: the logical processors are cores (AMD).
const CMP_LEGACY: u32 = 1 << 1;
/// Leaf 0, EBX, of AMD's and Hygon's processors: "Auth", "Hygo".
const AMD: [u32; 2] = [0x6874_7541, 0x6f67_7948];

/// The CPUID of a vCPU of a machine with one socket of `cpus` cores, without
/// hyper-threads. `supported` is what KVM reports. The number of the vCPU is its APIC ID.
///
/// # Errors
/// [`CpuError::Cpuid`].
pub fn cpuid(kvm: &Kvm, supported: &CpuId, vcpu: u8, cpus: u8) -> Result<CpuId, CpuError> {
    let topology = Topology { vcpu, cpus };
    let mut entries = topology.apply(supported.as_slice());
    // KVM reports this bit as a capability, for a VM with KVM's local APICs.
    if kvm.check_extension(Cap::TscDeadlineTimer) {
        let leaf = entries.iter_mut().find(|leaf| leaf.function == 1);
        leaf.into_iter().for_each(|leaf| leaf.ecx |= TSC_DEADLINE);
    }
    CpuId::from_entries(&entries).map_err(|_| CpuError::Cpuid(Errno::E2BIG))
}

/// The place of a vCPU.
#[derive(Clone, Copy, Debug)]
struct Topology {
    vcpu: u8,
    cpus: u8,
}

impl Topology {
    /// The leaves with this topology.
    fn apply(self, supported: &[kvm_cpuid_entry2]) -> Vec<kvm_cpuid_entry2> {
        let basic = supported.iter().find(|leaf| leaf.function == 0);
        let (last, vendor) = basic.map_or((0, 0), |leaf| (leaf.eax, leaf.ebx));
        let is_amd = AMD.contains(&vendor);
        // The leaves that list levels are replaced as a whole.
        let kept = supported.iter().copied();
        let kept = kept.filter(|leaf| !matches!(leaf.function, 0xb | 0x1f | 0x8000_0026));
        let mut leaves: Vec<_> = kept.collect();
        for leaf in &mut leaves {
            self.set(leaf, is_amd);
        }
        for function in [0xb, 0x1f].into_iter().filter(|&function| function <= last) {
            leaves.extend(self.levels(function));
        }
        leaves
    }

    fn set(self, leaf: &mut kvm_cpuid_entry2, is_amd: bool) {
        let (id, cpus) = (u32::from(self.vcpu), u32::from(self.cpus));
        let several = cpus > 1;
        match leaf.function {
            1 => {
                leaf.ebx = leaf.ebx & 0xffff | cpus << 16 | id << 24;
                leaf.ecx |= HYPERVISOR;
                leaf.edx = leaf.edx & !HTT | if several { HTT } else { 0 };
            }
            4 if leaf.eax & 0x1f != 0 => {
                let cores = self.id_space().min(64) - 1;
                leaf.eax = self.cache(leaf.eax) & !(0x3f << 26) | cores << 26;
            }
            0x8000_0001 if is_amd => {
                leaf.ecx = leaf.ecx & !CMP_LEGACY | if several { CMP_LEGACY } else { 0 };
            }
            0x8000_0008 if is_amd => {
                leaf.ecx = leaf.ecx & !0xf0ff | self.id_bits() << 12 | cpus.saturating_sub(1);
            }
            0x8000_001d if leaf.eax & 0x1f != 0 => leaf.eax = self.cache(leaf.eax),
            // The APIC ID; the core, of one thread; the node, the only one.
            0x8000_001e => (leaf.eax, leaf.ebx, leaf.ecx) = (id, id, 0),
            _ => {}
        }
    }

    /// EAX of a cache: every core has its own, but for those of level 3 and up.
    fn cache(self, eax: u32) -> u32 {
        let level = eax >> 5 & 7;
        let sharing = if level < 3 { 1 } else { self.id_space() };
        eax & !(0xfff << 14) | (sharing - 1) << 14
    }

    /// The subleaves of a leaf that lists the levels of the topology: threads of a
    /// core, cores of the socket, and the end.
    fn levels(self, function: u32) -> [kvm_cpuid_entry2; 3] {
        let level = |index, shift, processors, kind: u32| kvm_cpuid_entry2 {
            function,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax: shift,
            ebx: processors,
            ecx: index | kind << 8,
            edx: self.vcpu.into(),
            ..Default::default()
        };
        [
            level(0, 0, 1, 1),
            level(1, self.id_bits(), self.cpus.into(), 2),
            level(2, 0, 0, 0),
        ]
    }

    /// The width of the APIC IDs.
    fn id_bits(self) -> u32 {
        u8::BITS - self.cpus.saturating_sub(1).leading_zeros()
    }

    /// The number of APIC IDs of that width.
    fn id_space(self) -> u32 {
        1 << self.id_bits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
        let [eax, ebx, ecx, edx] = registers;
        kvm_cpuid_entry2 {
            function,
            index,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        }
    }

    /// A host with 32 threads, on whose processor 17 the call ran.
    fn host(vendor: u32) -> Vec<kvm_cpuid_entry2> {
        vec![
            leaf(0, 0, [0x1f, vendor, 0, 0]),
            leaf(1, 0, [0, 17 << 24 | 32 << 16 | 0x800, 0, HTT]),
            leaf(4, 0, [15 << 26 | 1 << 14 | 1 << 5 | 1, 0, 0, 0]),
            leaf(4, 1, [15 << 26 | 31 << 14 | 3 << 5 | 3, 0, 0, 0]),
            leaf(4, 2, [0; 4]),
            leaf(0xb, 0, [1, 2, 1 << 8, 17]),
            leaf(0x1f, 0, [1, 2, 1 << 8, 17]),
            leaf(0x8000_0001, 0, [0, 0, CMP_LEGACY, 0]),
            leaf(0x8000_0008, 0, [48, 0, 5 << 12 | 31, 0]),
            leaf(0x8000_001e, 0, [17, 1 << 8 | 8, 1, 0]),
        ]
    }

    fn found(leaves: &[kvm_cpuid_entry2], function: u32, index: u32) -> [u32; 4] {
        let mut of = leaves
            .iter()
            .filter(|l| (l.function, l.index) == (function, index));
        let leaf = of.next().unwrap();
        assert_eq!(of.next(), None, "{function:#x} is there once");
        [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]
    }

    #[test]
    fn every_leaf_shows_one_socket_with_the_cores_of_the_machine() {
        let topology = Topology { vcpu: 2, cpus: 3 };
        let leaves = topology.apply(&host(AMD[0]));
        assert_eq!(
            found(&leaves, 1, 0),
            [0, 2 << 24 | 3 << 16 | 0x800, HYPERVISOR, HTT]
        );
        // The first cache is a core's own. The last one is everybody's.
        assert_eq!(found(&leaves, 4, 0)[0], 3 << 26 | 1 << 5 | 1);
        assert_eq!(found(&leaves, 4, 1)[0], 3 << 26 | 3 << 14 | 3 << 5 | 3);
        assert_eq!(found(&leaves, 4, 2), [0; 4]);
        for function in [0xb, 0x1f] {
            assert_eq!(found(&leaves, function, 0), [0, 1, 1 << 8, 2]);
            assert_eq!(found(&leaves, function, 1), [2, 3, 1 | 2 << 8, 2]);
            assert_eq!(found(&leaves, function, 2), [0, 0, 2, 2]);
        }
        assert_eq!(found(&leaves, 0x8000_0001, 0)[2], CMP_LEGACY);
        assert_eq!(found(&leaves, 0x8000_0008, 0), [48, 0, 2 << 12 | 2, 0]);
        assert_eq!(found(&leaves, 0x8000_001e, 0), [2, 2, 0, 0]);
    }

    #[test]
    fn one_vcpu_has_no_siblings() {
        let leaves = Topology { vcpu: 0, cpus: 1 }.apply(&host(AMD[0]));
        assert_eq!(found(&leaves, 1, 0), [0, 1 << 16 | 0x800, HYPERVISOR, 0]);
        assert_eq!(found(&leaves, 4, 1)[0], 3 << 5 | 3);
        assert_eq!(found(&leaves, 0xb, 1), [0, 1, 1 | 2 << 8, 0]);
        assert_eq!(found(&leaves, 0x8000_0001, 0)[2], 0);
    }

    #[test]
    fn a_processor_without_topology_leaves_gets_none() {
        let mut host = host(0);
        host[0].eax = 4;
        let leaves = Topology {
            vcpu: 254,
            cpus: 255,
        }
        .apply(&host);
        assert!(
            leaves
                .iter()
                .all(|leaf| ![0xb, 0x1f].contains(&leaf.function))
        );
        assert_eq!(found(&leaves, 4, 0)[0] >> 26, 63);
        assert_eq!(found(&leaves, 0x8000_0008, 0)[2], 5 << 12 | 31);
    }
}
