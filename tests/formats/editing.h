// SPDX-License-Identifier: Apache-2.0
// What the tests of VMDK, VDI, VHD and VHDX share: images of QEMU, whole files in memory to change and write back, and
// checks that every format must pass.
#pragma once

#include "tests/formats/fixtures.h"

#include <algorithm>
#include <atomic>
#include <thread>

namespace kvmport::test {

inline Bytes load_file(const std::filesystem::path& path) {
  const UniqueFd fd = open_source(path);
  Bytes bytes(file_size(fd.get()));
  read_exact(fd.get(), 0, bytes, path.string());
  return bytes;
}

inline void save_file(const std::filesystem::path& path, ByteSpan bytes) {
  std::filesystem::remove(path);
  write_exact(create_new(path).get(), 0, bytes, path.string());
}

inline void save_text(const std::filesystem::path& path, std::string_view text) {
  save_file(path, as_bytes(text));
}

inline void qemu_convert(const std::filesystem::path& raw, const std::filesystem::path& out, const std::string& format,
                         const std::string& options = {}) {
  std::vector<std::string> argv{"qemu-img", "convert", "-f", "raw", "-O", format};
  if (!options.empty())
    argv.insert(argv.end(), {"-o", options});
  argv.insert(argv.end(), {raw.string(), out.string()});
  must_run(argv);
}

inline void qemu_create(const std::filesystem::path& out, const std::string& format, const std::string& size,
                        const std::string& options = {}) {
  std::vector<std::string> argv{"qemu-img", "create", "-q", "-f", format};
  if (!options.empty())
    argv.insert(argv.end(), {"-o", options});
  argv.insert(argv.end(), {out.string(), size});
  must_run(argv);
}

/// Runs qemu-io commands ("write -P 7 4096 512").
inline void qemu_io(const std::filesystem::path& image, const std::string& format,
                    const std::vector<std::string>& commands) {
  std::vector<std::string> argv{"qemu-io", "-f", format};
  for (const std::string& command : commands)
    argv.insert(argv.end(), {"-c", command});
  argv.push_back(image.string());
  must_run(argv);
}

/// All bytes of `image`, which is a chain perhaps, are those that qemu-img reads.
inline void expect_same_as_qemu(const Image& image, const std::filesystem::path& path, const std::string& format,
                                const std::filesystem::path& scratch) {
  std::filesystem::remove(scratch);
  must_run({"qemu-img", "convert", "-f", format, "-O", "raw", path.string(), scratch.string()});
  expect_same_as_raw(image, scratch);
}

inline void expect_fill(const Image& image, std::uint64_t offset, std::size_t length, unsigned value) {
  const Bytes bytes = read_all(image, offset, length);
  const auto wrong = std::find_if(bytes.begin(), bytes.end(), [&](std::byte b) { return b != std::byte(value); });
  EXPECT_TRUE(wrong == bytes.end()) << "byte " << offset + static_cast<std::uint64_t>(wrong - bytes.begin())
                                    << " is not " << value;
}

/// Opens, checks all tables and reads every byte.
inline Bytes read_everything(const std::filesystem::path& path, const std::string& format = {}) {
  OpenOptions options;
  options.format = format;
  const auto image = open_image(path, options);
  image->extents({0, image->size()});
  return read_all(*image, 0, image->size());
}

/// However a file was cut, what remains is refused, or (when only padding is lost) reads as the whole.
inline void expect_cuts_refused(const std::filesystem::path& path, const std::filesystem::path& scratch) {
  const Bytes file = load_file(path), whole = read_everything(path);
  unsigned refused = 0;
  for (const unsigned percent : {3, 20, 40, 60, 80, 97, 99}) {
    SCOPED_TRACE(std::to_string(percent) + " % left");
    save_file(scratch, ByteSpan(file).first(file.size() * percent / 100));
    try {
      EXPECT_TRUE(read_everything(scratch, probe_format(path)) == whole) << "a cut file reads as other bytes";
    } catch (const Error& error) {
      refused++;
      EXPECT_TRUE(error.code() == "DISK_TRUNCATED" || error.code() == "IMAGE_CORRUPT") << error.what();
      EXPECT_NE(std::string(error.what()).find(scratch.filename().string()), std::string::npos) << error.what();
    }
  }
  EXPECT_GE(refused, 5U);
}

/// file_range() points at the very bytes, and says so for most of the data of an uncompressed image.
inline void expect_verbatim(const Image& image) {
  std::uint64_t data = 0, found = 0;
  for (const Extent& extent : image.extents({0, image.size()})) {
    if (extent.kind != ExtentKind::data)
      continue;
    data += extent.range.length;
    for (std::uint64_t at = extent.range.offset; at < extent.range.end();) {
      const auto place = image.file_range({at, extent.range.end() - at});
      ASSERT_TRUE(place) << "nothing at " << at;
      Bytes bytes(std::min<std::uint64_t>(place->length, 8U << 20));
      ASSERT_GT(bytes.size(), 0U);
      read_exact(place->fd, place->offset, bytes, "host file");
      ASSERT_TRUE(bytes == read_all(image, at, bytes.size())) << "other bytes at " << at;
      at += bytes.size();
      found += bytes.size();
    }
  }
  EXPECT_EQ(found, data);
  EXPECT_GT(data, 0U);
}

/// Threads that read odd pieces at once see the same bytes.
inline void expect_threads_agree(const Image& image) {
  const Bytes whole = read_all(image, 0, image.size());
  std::atomic<unsigned> wrong{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; t++)
    threads.emplace_back([&, t] {
      std::mt19937_64 random(t);
      for (int i = 0; i < 150; i++) {
        const std::uint64_t at = random() % whole.size();
        const std::size_t length = 1 + random() % std::min<std::uint64_t>(whole.size() - at, 300'000);
        Bytes bytes(length);
        image.read(at, bytes);
        wrong += std::memcmp(bytes.data(), whole.data() + at, length) != 0;
      }
    });
  for (auto& thread : threads)
    thread.join();
  EXPECT_EQ(wrong, 0U);
}

} // namespace kvmport::test
