// SPDX-License-Identifier: Apache-2.0
#include "formats/readers.h"
#include "tests/formats/fixtures.h"

#include <sys/stat.h>

namespace kvmport::test {
namespace {

std::unique_ptr<Image> open_plain(const std::filesystem::path& path, Range window = {}) {
  return open_raw(SourceFile::open(path, window), OpenContext{});
}

std::uint64_t allocated_bytes(const std::filesystem::path& path) {
  struct stat st {};
  EXPECT_EQ(::stat(path.c_str(), &st), 0);
  return static_cast<std::uint64_t>(st.st_blocks) * 512;
}

TEST(RawReader, ReadsAnySizeByteForByte) {
  const TempDir dir;
  for (const std::uint64_t size : {0, 1, 511, 512, 1000001, 3 << 20}) {
    const auto path = dir.path() / std::to_string(size);
    make_pattern_file(path, size, static_cast<unsigned>(size));
    const auto image = open_plain(path);
    expect_same_as_raw(*image, path, 65537);
    EXPECT_EQ(image->info().format, "raw");
    EXPECT_EQ(image->info().files, std::vector{path});
  }
}

TEST(RawReader, HolesAreUnallocated) {
  const TempDir dir;
  const auto path = dir.path() / "sparse";
  const UniqueFd fd = create_new(path);
  ASSERT_EQ(::ftruncate(fd.get(), 16 << 20), 0);
  write_exact(fd.get(), 4 << 20, Bytes(1 << 20, std::byte{1}), "sparse");
  const auto image = open_plain(path);
  EXPECT_EQ(image->extents({0, 16 << 20}), (std::vector<Extent>{{{0, 4 << 20}, ExtentKind::unallocated},
                                                                {{4 << 20, 1 << 20}, ExtentKind::data},
                                                                {{5 << 20, 11 << 20}, ExtentKind::unallocated}}));
  EXPECT_EQ(image->extents({(4 << 20) + 5, 10}), (std::vector<Extent>{{{(4 << 20) + 5, 10}, ExtentKind::data}}));
}

TEST(RawReader, AWindowIsADiskOfItsOwn) {
  const TempDir dir;
  const auto path = dir.path() / "file", part = dir.path() / "part";
  make_pattern_file(path, 2 << 20, 3);
  must_run({"dd", "if=" + path.string(), "of=" + part.string(), "bs=1", "skip=1000", "count=70000", "status=none"});
  const auto image = open_plain(path, {1000, 70000});
  expect_same_as_raw(*image, part, 4099);
  const auto range = image->file_range({5, 100});
  ASSERT_TRUE(range);
  EXPECT_EQ(range->offset, 1005U);
  EXPECT_EQ(range->length, 100U);
  expect_error("DISK_TRUNCATED", [&] { open_plain(path, {1 << 20, 2 << 20}); });
}

TEST(RawReader, RefusesWhatIsNoDisk) {
  const TempDir dir;
  ASSERT_EQ(::mkfifo((dir.path() / "fifo").c_str(), 0600), 0);
  expect_error("NOT_A_DISK", [&] { open_plain(dir.path() / "fifo"); });
  expect_error("NOT_A_DISK", [&] { open_plain(dir.path()); });
  expect_error("NOT_FOUND", [&] { open_plain(dir.path() / "missing"); });
}

TEST(RawReader, AFileThatShrinksIsTruncatedNotZero) {
  const TempDir dir;
  const auto path = dir.path() / "file";
  make_pattern_file(path, 1 << 20, 4);
  const auto image = open_plain(path);
  std::filesystem::resize_file(path, 1000);
  Bytes buffer(4096);
  const std::string text = expect_error("DISK_TRUNCATED", [&] { image->read(0, buffer); });
  EXPECT_NE(text.find(path.string()), std::string::npos) << text;
}

TEST(RawWriter, WritesSparselyAndZerosGiveSpaceBack) {
  const TempDir dir;
  const auto path = dir.path() / "out.raw";
  CreateOptions options;
  options.format = "raw";
  options.size = (64 << 20) + 100;
  const auto writer = create_image(path, options);
  EXPECT_EQ(std::filesystem::file_size(path), options.size);
  writer->write(8 << 20, random_bytes(4 << 20, 5));
  writer->write(options.size - 10, text_bytes(10));
  writer->zero({(8 << 20) + 100, 2 << 20});
  writer->zero({32 << 20, 16 << 20}); // never written
  EXPECT_TRUE(writer->checkpoint().empty());
  Bytes expected = random_bytes(4 << 20, 5);
  std::fill_n(expected.begin() + 100, 2 << 20, std::byte{0});
  Bytes back(4 << 20);
  writer->read(8 << 20, back);
  EXPECT_EQ(back, expected);
  writer->finish();
  EXPECT_LT(allocated_bytes(path), 3U << 20);
  const auto image = open_plain(path);
  EXPECT_EQ(read_all(*image, 8 << 20, 4 << 20), expected);
  EXPECT_EQ(read_all(*image, options.size - 10, 10), text_bytes(10));
}

TEST(RawWriter, ResumesAndRefusesToOverwrite) {
  const TempDir dir;
  const auto path = dir.path() / "out.raw";
  CreateOptions options;
  options.format = "raw";
  options.size = 1 << 20;
  create_image(path, options)->write(0, text_bytes(100000));
  expect_error("FILE_EXISTS", [&] { create_image(path, options); });
  options.resume = true;
  const auto writer = create_image(path, options);
  writer->restore({{}});
  writer->zero({50000, 100000});
  writer->finish();
  const auto image = open_plain(path);
  EXPECT_EQ(read_all(*image, 0, 50000), text_bytes(50000));
  EXPECT_TRUE(is_zero(read_all(*image, 50000, (1 << 20) - 50000)));
}

TEST(CreateImage, RefusesWhatItCannotMake) {
  const TempDir dir;
  const auto attempt = [&](const std::function<void(CreateOptions&)>& change) {
    CreateOptions options;
    options.size = 1 << 20;
    change(options);
    expect_error("FORMAT_UNSUPPORTED", [&] { create_image(dir.path() / "x", options); });
    EXPECT_FALSE(std::filesystem::exists(dir.path() / "x"));
  };
  attempt([](auto& o) { o.format = "vmdk"; });
  attempt([](auto& o) { o.cluster_size = 256; });
  attempt([](auto& o) { o.cluster_size = 4 << 20; });
  attempt([](auto& o) { o.cluster_size = 65537; });
  attempt([](auto& o) { o.cluster_size = 512, o.size = std::uint64_t{1} << 40; });
  attempt([](auto& o) { o.size = ~std::uint64_t{0}; });
  attempt([](auto& o) { o.format = "raw", o.compression = Compression::zstd; });
}

} // namespace
} // namespace kvmport::test
