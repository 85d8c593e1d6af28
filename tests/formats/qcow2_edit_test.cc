// SPDX-License-Identifier: Apache-2.0
// Images of qemu-img, changed in place: qemu-img must find nothing to complain about, and the bytes must be those of a
// raw disk that was changed in the same way.
#include "formats/qcow2_edit.h"

#include "tests/formats/editing.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <random>

namespace kvmport::test {
namespace {

namespace fs = std::filesystem;

void check_clean(const fs::path& image) {
  EXPECT_THAT(must_run({"qemu-img", "check", "-f", "qcow2", image.string()}), testing::HasSubstr("No errors"));
}

class Qcow2Edit : public testing::Test {
 protected:
  /// The same random bytes into the qcow2 and the raw disk, `times` times.
  void change(const fs::path& image, const fs::path& raw, unsigned times, std::size_t most = 40000) {
    const auto before = open_image(image, {.format = "qcow2", .allowed_directories = {}, .window = {}});
    const UniqueFd plain = open_existing(raw);
    const std::uint64_t size = before->size();
    std::mt19937_64 random(7);
    Qcow2Editor editor(image);
    // Each byte once: the editor takes what it does not change from the disk as it was.
    for (unsigned i = 0; i < times; i++) {
      const std::uint64_t from = size / times * i, room = size / times;
      Bytes data(1 + random() % std::min<std::uint64_t>(most, room / 2));
      std::ranges::generate(data, [&] { return static_cast<std::byte>(random()); });
      const std::uint64_t at = from + random() % (room - data.size());
      editor.write(at, data, *before);
      write_exact(plain.get(), at, data, "raw");
    }
    editor.finish();
  }
  void expect_same(const fs::path& image, const fs::path& raw) {
    check_clean(image);
    must_run({"qemu-img", "compare", "-f", "qcow2", "-F", "raw", image.string(), raw.string()});
    expect_same_as_raw(*open_image(image, {}), raw, 1U << 20);
  }

  TempDir dir;
  fs::path raw = dir.path() / "in.raw", image = dir.path() / "image.qcow2";
};

struct Kind {
  const char *name, *options;
  bool compressed = false;
};
void PrintTo(const Kind& kind, std::ostream* out) {
  *out << kind.name;
}
class Qcow2EditKinds : public Qcow2Edit, public testing::WithParamInterface<Kind> {};

TEST_P(Qcow2EditKinds, BytesAreThereAndQemuFindsNoFault) {
  make_pattern_file(raw, 12U << 20, 3);
  std::vector<std::string> argv{"qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", GetParam().options};
  if (GetParam().compressed)
    argv.push_back("-c");
  argv.insert(argv.end(), {raw.string(), image.string()});
  must_run(argv);
  change(image, raw, 60);
  expect_same(image, raw);
  change(image, raw, 7, 600000); // once more, over what was put there
  expect_same(image, raw);
}
INSTANTIATE_TEST_SUITE_P(
    All, Qcow2EditKinds,
    testing::Values(Kind{"plain", "compat=1.1"}, Kind{"version_2", "compat=0.10"},
                    Kind{"small_clusters", "cluster_size=512"}, Kind{"large_clusters", "cluster_size=2M"},
                    Kind{"zlib", "cluster_size=64k", true}, Kind{"zstd", "compression_type=zstd", true},
                    Kind{"small_zlib", "cluster_size=4k", true}, Kind{"preallocated", "preallocation=metadata"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST_F(Qcow2Edit, ManyNewClustersNeedALongerTableOfCounts) {
  qemu_create(image, "qcow2", "64M", "cluster_size=512");
  qemu_create(raw, "raw", "64M");
  change(image, raw, 3000, 9000);
  expect_same(image, raw);
}

/// The table (one cluster: 64 blocks of 256 counts) becomes too long and moves to the end of the file. With 560, 561,
/// 811 or 812 new clusters a block of counts ends just there: the block that follows must not lie inside the moved
/// table.
TEST_F(Qcow2Edit, TheTableOfCountsMovesWhereverABlockEnds) {
  const fs::path source = dir.path() / "source.qcow2";
  qemu_create(source, "qcow2", "16M", "cluster_size=512");
  qemu_io(source, "qcow2", {fmt::format("write -q -P 7 0 {}", 16000 * 512)});
  for (const std::uint64_t first : {554U, 806U})
    for (std::uint64_t clusters = first; clusters < first + 12; clusters++) {
      SCOPED_TRACE(fmt::format("{} new clusters", clusters));
      fs::copy_file(source, image, fs::copy_options::overwrite_existing);
      const auto before = open_image(image, {.format = "qcow2", .allowed_directories = {}, .window = {}});
      Qcow2Editor editor(image);
      editor.write(9U << 20, Bytes(clusters * 512, std::byte{5}), *before);
      editor.finish();
      check_clean(image);
      Bytes bytes(clusters * 512);
      open_image(image, {})->read(9U << 20, bytes);
      EXPECT_EQ(bytes, Bytes(clusters * 512, std::byte{5}));
    }
}

TEST_F(Qcow2Edit, OverABackingFile) {
  make_pattern_file(raw, (9U << 20) + 512, 5);
  fs::create_directory(dir.path() / "base");
  const fs::path base = dir.path() / "base" / "disk", edited = dir.path() / "edited.raw";
  for (const std::string format : {"raw", "qcow2"}) {
    fs::remove(image);
    fs::remove(base);
    qemu_convert(raw, base, format);
    fs::copy_file(raw, edited, fs::copy_options::overwrite_existing);
    const std::string before = sha256_of(base);
    create_qcow2_over(image, fs::file_size(raw), "base/disk", format);
    check_clean(image);
    must_run({"qemu-img", "compare", "-f", "qcow2", "-F", "raw", image.string(), raw.string()});
    EXPECT_LT(fs::file_size(image), 300000U);
    const OpenOptions allowed{.format = "qcow2", .allowed_directories = {base.parent_path()}, .window = {}};
    const auto view = open_image(image, allowed);
    Qcow2Editor editor(image);
    const Bytes data(100000, std::byte{0x5a}), zeros(5000);
    editor.write(123456, data, *view);
    editor.write((9U << 20) + 500, ByteSpan(data).first(12), *view);
    editor.write(2U << 20, zeros, *view);
    editor.finish();
    const UniqueFd plain = open_existing(edited);
    write_exact(plain.get(), 123456, data, "raw");
    write_exact(plain.get(), (9U << 20) + 500, ByteSpan(data).first(12), "raw");
    write_exact(plain.get(), 2U << 20, zeros, "raw");
    check_clean(image);
    must_run({"qemu-img", "compare", "-f", "qcow2", "-F", "raw", image.string(), edited.string()});
    EXPECT_EQ(sha256_of(base), before);
  }
}

TEST_F(Qcow2Edit, WhatItCannotKeepIsNamed) {
  struct Case {
    const char *what, *options;
    std::vector<std::string> then;
  };
  const std::string file = image.string();
  for (const auto& [what, options, then] :
       {Case{"internal snapshots", "compat=1.1", {"qemu-img", "snapshot", "-c", "now", file}},
        Case{"subclusters", "extended_l2=on,cluster_size=128k", {"true"}},
        Case{"dirty bitmaps", "compat=1.1", {"qemu-img", "bitmap", "--add", file, "changes"}},
        Case{"reference counts of an unusual width", "refcount_bits=64", {"true"}}}) {
    fs::remove(image);
    qemu_create(image, "qcow2", "8M", options);
    must_run(then);
    EXPECT_EQ(Qcow2Editor::unsupported(image), what);
    try {
      const Qcow2Editor editor(image);
      ADD_FAILURE() << what;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), "FORMAT_UNSUPPORTED");
    }
  }
}

TEST_F(Qcow2Edit, TablesThatLeadOutOfTheFileAreRefused) {
  make_pattern_file(raw, 1U << 20, 1);
  qemu_convert(raw, image, "qcow2");
  const auto view = open_image(raw, {.format = "raw", .allowed_directories = {}, .window = {}});
  const Bytes good = load_file(image);
  const auto l1 = load_be<std::uint64_t>(good, 40), l2 = load_be<std::uint64_t>(good, l1) & 0x00fffffffffffe00;
  for (const auto& [at, value] : {std::pair<std::uint64_t, std::uint64_t>{l1, (1ULL << 63) | (1ULL << 50)},
                                  {l2, (1ULL << 63) | (1ULL << 50)},
                                  {l2, (1ULL << 62) | 0x3fffffffff0000},
                                  {l2, 1ULL << 50}}) {
    Bytes bad = good;
    store_be<std::uint64_t>(bad, at, value);
    save_file(image, bad);
    try {
      Qcow2Editor editor(image);
      editor.write(0, Bytes(10, std::byte{1}), *view);
      editor.finish();
      ADD_FAILURE() << at << " " << value;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), "IMAGE_CORRUPT");
    }
  }
}

} // namespace
} // namespace kvmport::test
