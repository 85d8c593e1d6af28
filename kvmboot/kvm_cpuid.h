// SPDX-License-Identifier: Apache-2.0
// What a host's KVM offers its guests as CPUID (Linux Documentation/virt/kvm/api.rst, KVM_GET_SUPPORTED_CPUID).
//
// <linux/kvm.h> declares kvm_cpuid2 with a flexible array that has another size in C++ than in C, and the size is part
// of the request's number: with it the kernel refuses the calls (EINVAL). So the table stands here once more.
#pragma once

#include <cstddef>
#include <cstdint>
#include <linux/kvm.h>
#include <sys/ioctl.h>

namespace kvmport {

struct KvmCpuid {
  static constexpr std::uint32_t most = 256;
  static constexpr unsigned long get_request = _IOWR(KVMIO, 0x05, std::uint64_t);
  static constexpr unsigned long set_request = _IOW(KVMIO, 0x90, std::uint64_t);
  std::uint32_t nent = most, padding = 0;
  kvm_cpuid_entry2 entries[most] = {};

  /// Fills the table from /dev/kvm; false with errno.
  bool get_supported(int kvm) { return ::ioctl(kvm, get_request, this) == 0; }
  /// Gives the table to a vCPU; false with errno.
  bool set(int vcpu) const { return ::ioctl(vcpu, set_request, this) == 0; }
};
static_assert(offsetof(KvmCpuid, entries) == sizeof(std::uint64_t));

} // namespace kvmport
