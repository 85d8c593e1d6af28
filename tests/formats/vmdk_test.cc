// SPDX-License-Identifier: Apache-2.0
// VMDK against qemu-img's writer, and what qemu-img can't write made by hand.
#include "tests/formats/fixtures.h"

#include <fcntl.h>
#include <unistd.h>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

struct QemuCase {
  const char* name;
  std::uint64_t size;
  const char* options;
};

class VmdkFromQemu : public testing::TestWithParam<QemuCase> {};

TEST_P(VmdkFromQemu, ReadsWhatWasWritten) {
  const TempDir dir;
  const fs::path raw = dir.path() / "disk.raw", image = dir.path() / "disk.vmdk";
  make_pattern_file(raw, GetParam().size, 11);
  must_run({"qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", GetParam().options, raw.string(), image.string()});
  EXPECT_EQ(probe_format(image), "vmdk");
  const auto disk = open_image(image);
  expect_same_as_raw(*disk, raw);
  expect_same_as_raw(*open_image(image), raw, 77 * 512 * 3); // odd pieces, a cold image
  EXPECT_EQ(disk->info().variant, std::string(GetParam().options).substr(10));
}

INSTANTIATE_TEST_SUITE_P(Subformats, VmdkFromQemu,
                         testing::Values(QemuCase{"sparse", 24U << 20, "subformat=monolithicSparse"},
                                         QemuCase{"sparse_odd", (24U << 20) + 11 * 512, "subformat=monolithicSparse"},
                                         QemuCase{"sparse_tiny", 512, "subformat=monolithicSparse"},
                                         QemuCase{"stream", 40U << 20, "subformat=streamOptimized"},
                                         QemuCase{"stream_odd", (40U << 20) + 5 * 512, "subformat=streamOptimized"},
                                         QemuCase{"stream_tiny", 512, "subformat=streamOptimized"},
                                         QemuCase{"flat", 9U << 20, "subformat=monolithicFlat"},
                                         QemuCase{"split_sparse", 24U << 20, "subformat=twoGbMaxExtentSparse"},
                                         QemuCase{"split_flat", 9U << 20, "subformat=twoGbMaxExtentFlat"}),
                         [](const auto& info) { return std::string(info.param.name); });

} // namespace
} // namespace kvmport::test
