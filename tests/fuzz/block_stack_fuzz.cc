// SPDX-License-Identifier: Apache-2.0
// Any bytes as two disks with partition tables, LVM metadata and md superblocks: what is put together lies inside the
// disks. Checksums count as right in this build. Byte 0 of the input: 0 for disks, else the rest is LVM's text.
#include "formats/block_stack.h"
#include "formats/lvm.h"
#include "tests/fuzz/pieces_disk.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kvmport;
  using namespace kvmport::fuzz;
  Input in(data, size);
  try {
    if (in.number(1) != 0) {
      const ByteSpan text = in.take(size);
      const LvmGroup group = parse_lvm_metadata({reinterpret_cast<const char*>(text.data()), text.size()});
      for (const LvmVolume& volume : group.volumes)
        must(!volume.segments.empty() || !volume.unsupported.empty());
      return 0;
    }
    const std::size_t half = size / 2;
    Input first(data, half), second(data + half, size - half);
    (void)first.number(1);
    const PiecesDisk a(first, 64U << 20), b(second, 64U << 20);
    const BlockStack stack({{&a, nullptr, 512}, {&b, nullptr, 4096}});
    for (const StackDevice& device : stack.devices()) {
      must((device.place.image == nullptr) == !device.unsupported.empty());
      if (device.place.image == nullptr)
        continue;
      must(device.place.offset <= device.place.image->size() &&
           device.size <= device.place.image->size() - device.place.offset);
      Bytes bytes(std::min<std::uint64_t>(device.size, 4096));
      device.place.image->read(device.place.offset, bytes);
      device.place.image->read(device.place.offset + device.size - bytes.size(), bytes);
    }
    for (const StackFree& free : stack.free())
      must(free.range.end() <= stack.devices()[free.device].size);
  } catch (const Error&) { // a refusal is an answer
  }
  return 0;
}
