// SPDX-License-Identifier: Apache-2.0
// What the writer makes, judged by qemu-img: check finds nothing, the bytes are the same, no image is larger.
#include "base/process.h"
#include "formats/readers.h"
#include "tests/formats/fixtures.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <sys/stat.h>
#include <thread>

namespace kvmport::test {
namespace {

namespace fs = std::filesystem;

const char* compression_name(Compression compression) {
  return compression == Compression::zlib ? "zlib" : compression == Compression::zstd ? "zstd" : "none";
}

/// qemu-img check finds neither errors nor leaks, QEMU reads the raw file's bytes, and so do we.
void expect_good(const fs::path& image, const fs::path& raw) {
  const ProcessResult check = run_process({"qemu-img", "check", "-f", "qcow2", image}, std::chrono::minutes(2));
  EXPECT_EQ(check.exit_code, 0) << check.out << check.err;
  EXPECT_NE(check.out.find("No errors were found"), std::string::npos) << check.out;
  const ProcessResult compare =
      run_process({"qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, raw}, std::chrono::minutes(2));
  EXPECT_EQ(compare.exit_code, 0) << compare.out << compare.err;
}

std::unique_ptr<Image> open_written(const fs::path& path) {
  return open_qcow2(SourceFile::open(path), OpenContext{});
}

/// Copies `raw` with `threads` threads in pieces of `step` bytes, taken in the order that the threads come.
void copy_into(ImageWriter& writer, const fs::path& raw, unsigned threads, std::uint64_t step) {
  const auto source = open_raw(SourceFile::open(raw), OpenContext{});
  std::atomic<std::uint64_t> next{0};
  std::vector<std::thread> workers;
  for (unsigned t = 0; t < threads; t++)
    workers.emplace_back([&] {
      Bytes buffer;
      for (std::uint64_t at; (at = next.fetch_add(step)) < source->size();) {
        buffer.resize(std::min(step, source->size() - at));
        source->read(at, buffer);
        if (at / step % 5 == 4 && is_zero(buffer))
          writer.zero({at, buffer.size()});
        else
          writer.write(at, buffer);
      }
    });
  for (auto& worker : workers)
    worker.join();
}

struct Shape {
  Compression compression;
  std::uint64_t cluster_size, size;
  bool operator==(const Shape&) const = default;
};
void PrintTo(const Shape& shape, std::ostream* out) {
  *out << compression_name(shape.compression) << shape.cluster_size;
}

class Qcow2Writing : public testing::TestWithParam<Shape> {
 protected:
  CreateOptions options() const {
    CreateOptions options;
    options.size = GetParam().size;
    options.compression = GetParam().compression;
    options.cluster_size = GetParam().cluster_size;
    return options;
  }
  TempDir dir;
  fs::path raw = dir.path() / "in.raw", image = dir.path() / "out.qcow2";
};

TEST_P(Qcow2Writing, IsGoodAndNoLargerThanQemus) {
  make_pattern_file(raw, GetParam().size, 51);
  const auto writer = create_image(image, options());
  const std::uint64_t step = std::max<std::uint64_t>(1 << 20, writer->block_size());
  copy_into(*writer, raw, 4, step);
  Bytes back(100000), expected(back.size());
  writer->read(12345, back);
  open_raw(SourceFile::open(raw), OpenContext{})->read(12345, expected);
  EXPECT_EQ(back, expected);
  writer->finish();
  expect_good(image, raw);

  const fs::path theirs = dir.path() / "theirs.qcow2";
  std::string with = "cluster_size=" + std::to_string(GetParam().cluster_size);
  std::vector<std::string> argv{"qemu-img", "convert", "-f", "raw", "-O", "qcow2"};
  if (GetParam().compression != Compression::none) {
    argv.push_back("-c");
    with += std::string(",compression_type=") + compression_name(GetParam().compression);
  }
  argv.insert(argv.end(), {"-o", with, raw, theirs});
  must_run(argv);
  // Space is given out in clusters: where they are large and the image small, one is more than 1 %.
  EXPECT_LE(fs::file_size(image), fs::file_size(theirs) * 101 / 100 + GetParam().cluster_size);

  fs::resize_file(raw, round_up(GetParam().size, 512));
  expect_same_as_raw(*open_written(image), raw);
}

TEST_P(Qcow2Writing, ChangesInAnyOrderMatchAModel) {
  const std::uint64_t size = std::min<std::uint64_t>(GetParam().size, 6 << 20);
  CreateOptions small = options();
  small.size = size;
  const auto writer = create_image(image, small);
  Bytes model(size);
  std::mt19937_64 random(size + GetParam().cluster_size);
  for (int i = 0; i < 120; i++) {
    const std::uint64_t most = std::array<std::uint64_t, 3>{600, 70000, 3 << 20}[random() % 3];
    std::uint64_t offset = random() % size;
    if (random() % 3 == 0)
      offset = offset / GetParam().cluster_size * GetParam().cluster_size;
    const std::uint64_t length = std::min(size - offset, random() % most);
    const unsigned kind = random() % 5;
    const auto at = model.begin() + static_cast<std::ptrdiff_t>(offset);
    if (kind == 0) {
      writer->zero({offset, length});
      std::fill_n(at, length, std::byte{0});
    } else {
      const Bytes data = kind == 1   ? random_bytes(length, static_cast<unsigned>(i))
                         : kind == 2 ? Bytes(length)
                                     : text_bytes(length, static_cast<std::size_t>(i));
      writer->write(offset, data);
      std::copy(data.begin(), data.end(), at);
    }
    if (i % 30 == 7)
      writer->checkpoint();
    const std::uint64_t from = random() % size;
    Bytes back(std::min<std::uint64_t>(size - from, random() % 200000));
    writer->read(from, back);
    ASSERT_EQ(std::memcmp(back.data(), model.data() + from, back.size()), 0) << "step " << i;
  }
  writer->finish();
  write_file_durably(raw, as_text(model));
  fs::resize_file(raw, round_up(size, 512));
  expect_good(image, raw);
  expect_same_as_raw(*open_written(image), raw);
}

TEST_P(Qcow2Writing, ContinuesFromItsCheckpointsAfterAKill) {
  const std::uint64_t step = std::max<std::uint64_t>(1 << 20, GetParam().cluster_size);
  make_pattern_file(raw, GetParam().size, 52);
  const auto source = open_raw(SourceFile::open(raw), OpenContext{});
  Bytes buffer(step);
  const auto copy_step = [&](ImageWriter& writer, std::uint64_t at) {
    const auto part = std::span(buffer).first(std::min(step, source->size() - at));
    source->read(at, part);
    writer.write(at, part);
  };
  std::vector<Bytes> kept;
  std::uint64_t done = 0; // bytes that kept checkpoints vouch for
  for (unsigned run = 0; run < 4; run++) {
    CreateOptions again = options();
    again.resume = run != 0;
    const auto writer = create_image(image, again);
    if (again.resume) {
      writer->restore(kept);
      Bytes back(std::min<std::uint64_t>(done, 1 << 20)), expected(back.size());
      writer->read(done - back.size(), back);
      source->read(done - back.size(), expected);
      ASSERT_EQ(back, expected) << "run " << run;
    }
    if (run == 3) {
      for (; done < source->size(); done += step)
        copy_step(*writer, done);
      writer->finish();
      break;
    }
    // Some steps, a checkpoint that is kept, more steps, one that is lost, more steps, and the end without a word.
    for (unsigned i = 0; i < 2 && done < source->size(); i++, done += step)
      copy_step(*writer, done);
    done = std::min(done, source->size());
    kept.push_back(writer->checkpoint());
    for (std::uint64_t at = done; at < std::min(done + 3 * step, source->size()); at += step) {
      copy_step(*writer, at);
      if (at == done)
        writer->checkpoint();
    }
    Bytes head(512);
    read_exact(open_source(image).get(), 0, head, "image");
    EXPECT_TRUE(is_zero(head)) << "an unfinished file must not look like an image";
  }
  expect_good(image, raw);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, Qcow2Writing,
    testing::Values(Shape{Compression::none, 65536, 12 << 20}, Shape{Compression::zlib, 65536, 12 << 20},
                    Shape{Compression::zstd, 65536, 12 << 20}, Shape{Compression::none, 512, 1000000},
                    Shape{Compression::zlib, 512, 1000448}, Shape{Compression::zstd, 512, 1000448},
                    Shape{Compression::none, 4096, 5000001}, Shape{Compression::zlib, 4096, 5000001},
                    Shape{Compression::zstd, 4096, 5000001}, Shape{Compression::none, 2 << 20, 33000001},
                    Shape{Compression::zlib, 2 << 20, 33000001}, Shape{Compression::zstd, 2 << 20, 33000001}),
    [](const auto& info) {
      return compression_name(info.param.compression) + std::to_string(info.param.cluster_size);
    });

TEST(Qcow2Writer, AnEmptyDiskIsAGoodImage) {
  const TempDir dir;
  for (const std::uint64_t size : {std::uint64_t{0}, std::uint64_t{512}, std::uint64_t{1} << 40}) {
    const fs::path image = dir.path() / std::to_string(size);
    CreateOptions options;
    options.size = size;
    create_image(image, options)->finish();
    must_run({"qemu-img", "check", "-q", "-f", "qcow2", image});
    EXPECT_EQ(open_written(image)->size(), size);
    EXPECT_LT(fs::file_size(image), 1U << 20);
  }
}

TEST(Qcow2Writer, HugeDisksNeedLittle) {
  const TempDir dir;
  const fs::path image = dir.path() / "huge.qcow2";
  CreateOptions options;
  options.size = (std::uint64_t{8} << 40) + 512;
  options.compression = Compression::zstd;
  const auto writer = create_image(image, options);
  writer->zero({0, options.size});
  writer->write(0, text_bytes(65536));
  writer->write(std::uint64_t{5} << 40, random_bytes(100000, 1));
  writer->write(options.size - 512, text_bytes(512));
  writer->zero({std::uint64_t{6} << 40, std::uint64_t{1} << 40});
  writer->finish();
  EXPECT_LT(fs::file_size(image), 2U << 20);
  must_run({"qemu-img", "check", "-q", "-f", "qcow2", image});
  const auto opened = open_written(image);
  EXPECT_EQ(read_all(*opened, std::uint64_t{5} << 40, 100000), random_bytes(100000, 1));
  EXPECT_EQ(read_all(*opened, options.size - 512, 512), text_bytes(512));
  EXPECT_EQ(read_all(*opened, 0, 65536), text_bytes(65536));
}

TEST(Qcow2Writer, ThreadsThatShareClustersDoNotLoseWrites) {
  const TempDir dir;
  const fs::path image = dir.path() / "out.qcow2", raw = dir.path() / "truth.raw";
  for (const Compression compression : {Compression::none, Compression::zlib}) {
    fs::remove(image);
    fs::remove(raw);
    CreateOptions options;
    options.size = 4 << 20;
    options.compression = compression;
    const auto writer = create_image(image, options);
    writer->write(0, text_bytes(2 << 20));
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < 4; t++)
      threads.emplace_back([&writer, t] {
        for (std::size_t at = t * 1000; at + 1000 <= (4 << 20); at += 4000)
          writer->write(at, Bytes(1000, static_cast<std::byte>('a' + t)));
      });
    for (auto& thread : threads)
      thread.join();
    writer->finish();
    Bytes model(4 << 20);
    const Bytes text = text_bytes(2 << 20);
    std::copy(text.begin(), text.end(), model.begin());
    for (std::size_t at = 0; at + 1000 <= model.size(); at += 1000)
      std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(at), 1000, static_cast<std::byte>('a' + at / 1000 % 4));
    write_file_durably(raw, as_text(model));
    expect_good(image, raw);
  }
}

TEST(Qcow2Writer, WhatIsZeroedAgainTakesNoSpace) {
  const TempDir dir;
  const fs::path image = dir.path() / "out.qcow2";
  CreateOptions options;
  options.size = 16 << 20;
  const auto writer = create_image(image, options);
  writer->write(0, random_bytes(16 << 20, 2));
  writer->zero({0, 15 << 20});
  writer->finish();
  must_run({"qemu-img", "check", "-q", "-f", "qcow2", image});
  struct stat st {};
  ASSERT_EQ(::stat(image.c_str(), &st), 0);
  EXPECT_LT(st.st_blocks * 512, 3 << 20);
}

TEST(Qcow2Writer, RewrittenClustersUseTheirSpaceAgain) {
  const TempDir dir;
  const fs::path image = dir.path() / "out.qcow2", raw = dir.path() / "truth.raw";
  CreateOptions options;
  options.size = 8 << 20;
  options.compression = Compression::zlib;
  const auto writer = create_image(image, options);
  Bytes model;
  for (unsigned round = 0; round < 6; round++) {
    model = random_bytes(options.size, round);
    for (std::size_t i = 0; i < model.size(); i++) // compressible, each cluster to another length
      if (i % 16 > i / 65536 % 7)
        model[i] = std::byte{'x'};
    writer->write(0, model);
    if (round == 2)
      writer->zero({1 << 20, 1 << 20});
  }
  writer->finish();
  write_file_durably(raw, as_text(model));
  expect_good(image, raw);
  const fs::path once = dir.path() / "once.qcow2";
  const auto fresh = create_image(once, options);
  fresh->write(0, model);
  fresh->finish();
  EXPECT_LT(fs::file_size(image), fs::file_size(once) * 3) << "six rounds must not take the space of six images";
}

TEST(ImageWriters, KnowWhatWasNeverWritten) {
  const TempDir dir;
  for (const char* format : {"raw", "qcow2"}) {
    CreateOptions options;
    options.format = format;
    options.size = std::uint64_t{1} << 34;
    const auto writer = create_image(dir.path() / format, options);
    EXPECT_TRUE(writer->known_zero({0, options.size})) << format;
    writer->write(1 << 20, random_bytes(65536, 4));
    EXPECT_FALSE(writer->known_zero({0, options.size})) << format;
    EXPECT_FALSE(writer->known_zero({(1 << 20) + 1, 1})) << format;
    EXPECT_TRUE(writer->known_zero({0, 1 << 20})) << format;
    EXPECT_TRUE(writer->known_zero({(1 << 20) + 65536, options.size - (1 << 20) - 65536})) << format;
    writer->zero({1 << 20, 65536});
    EXPECT_TRUE(writer->known_zero({0, options.size})) << format;
  }
}

TEST(Qcow2Writer, RefusesCheckpointsThatDoNotFit) {
  const TempDir dir;
  const fs::path image = dir.path() / "out.qcow2";
  CreateOptions options;
  options.size = 1 << 20;
  Bytes kept;
  {
    const auto writer = create_image(image, options);
    writer->write(0, random_bytes(1 << 20, 3));
    kept = writer->checkpoint();
  }
  options.resume = true;
  expect_error("IMAGE_CORRUPT", [&] { create_image(image, options)->restore({Bytes(15)}); });
  Bytes far = kept;
  store_le<std::uint64_t>(far, 0, 1000);
  expect_error("IMAGE_CORRUPT", [&] { create_image(image, options)->restore({far}); });
  Bytes odd = kept;
  store_le<std::uint64_t>(odd, 8, 12345);
  expect_error("IMAGE_CORRUPT", [&] { create_image(image, options)->restore({odd}); });
  fs::resize_file(image, 300000);
  expect_error("DISK_TRUNCATED", [&] { create_image(image, options)->restore({kept}); });
}

TEST(Qcow2Writer, WritesPastTheEndAreRefused) {
  const TempDir dir;
  CreateOptions options;
  options.size = 1 << 20;
  const auto writer = create_image(dir.path() / "out.qcow2", options);
  EXPECT_THROW(writer->write(1 << 20, text_bytes(1)), Error);
  EXPECT_THROW(writer->zero({0, ~std::uint64_t{0}}), Error);
  Bytes buffer(2);
  EXPECT_THROW(writer->read((1 << 20) - 1, buffer), Error);
}

} // namespace
} // namespace kvmport::test
