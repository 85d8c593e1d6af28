// SPDX-License-Identifier: Apache-2.0
// Every foreign sample disk image but qcow2: those that a correct reader accepts give the content that independent
// readers agree on, those that it must refuse are refused. What is expected stands in the samples' own table.
#include "tests/formats/fixtures.h"

#include <algorithm>
#include <map>
#include <openssl/evp.h>
#include <set>
#include <sstream>

namespace fs = std::filesystem;

namespace kvmport::test {
namespace {

class Sha256 {
 public:
  Sha256() { EVP_DigestInit_ex(context_, EVP_sha256(), nullptr); }
  ~Sha256() { EVP_MD_CTX_free(context_); }
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  void add(ByteSpan bytes) { EVP_DigestUpdate(context_, bytes.data(), bytes.size()); }
  std::string hex() {
    unsigned char digest[32];
    EVP_DigestFinal_ex(context_, digest, nullptr);
    std::string text;
    for (const unsigned char c : digest) {
      text += "0123456789abcdef"[c >> 4];
      text += "0123456789abcdef"[c & 15];
    }
    return text;
  }

 private:
  EVP_MD_CTX* context_ = EVP_MD_CTX_new();
};

struct Row {
  std::string path, format, expect, virtual_size, raw_sha256, nonzero4k_sha256;
};

std::vector<Row> read_index(const fs::path& index) {
  std::istringstream lines(read_file(index));
  std::vector<Row> rows;
  std::string line;
  std::getline(lines, line); // the column names
  while (std::getline(lines, line)) {
    std::vector<std::string> cells;
    std::istringstream row(line);
    for (std::string cell; std::getline(row, cell, '\t');)
      cells.push_back(cell);
    cells.resize(12);
    rows.push_back({cells[0], cells[1], cells[6], cells[7], cells[8], cells[10]});
  }
  return rows;
}

/// SHA-256 over each 4096-byte block that is not all zeros, with its offset before it.
std::string hash_of_data(const Image& image) {
  constexpr std::uint64_t step = 4U << 20, unit = 4096;
  Sha256 hash;
  Bytes buffer(step);
  std::uint64_t done = 0; // blocks before this were looked at
  for (const Extent& extent : image.extents({0, image.size()})) {
    if (extent.kind != ExtentKind::data)
      continue;
    for (std::uint64_t at = std::max(extent.range.offset / unit * unit, done); at < extent.range.end();) {
      const std::size_t length = std::min({step, round_up(extent.range.end(), unit) - at, image.size() - at});
      image.read(at, std::span(buffer).first(length));
      for (std::size_t i = 0; i < length; i += unit) {
        const ByteSpan block = ByteSpan(buffer).subspan(i, std::min<std::size_t>(unit, length - i));
        if (is_zero(block))
          continue;
        std::array<std::byte, 8> offset;
        store_le<std::uint64_t>(offset, 0, at + i);
        hash.add(offset);
        hash.add(block);
      }
      at += length;
      done = at;
    }
  }
  return hash.hex();
}

std::string hash_of_all(const Image& image) {
  Sha256 hash;
  Bytes buffer(4U << 20);
  for (std::uint64_t at = 0; at < image.size(); at += buffer.size()) {
    const auto part = std::span(buffer).first(std::min<std::uint64_t>(buffer.size(), image.size() - at));
    image.read(at, part);
    hash.add(part);
  }
  return hash.hex();
}

void expect_content(const Image& image, const Row& row) {
  if (!row.virtual_size.empty()) {
    EXPECT_EQ(std::to_string(image.size()), row.virtual_size);
  }
  if (!row.nonzero4k_sha256.empty()) {
    EXPECT_EQ(hash_of_data(image), row.nonzero4k_sha256);
  }
  if (!row.raw_sha256.empty() && image.size() <= 512U << 20) {
    EXPECT_EQ(hash_of_all(image), row.raw_sha256);
  }
}

const std::set<std::string> read_formats{"raw",       "vmdk", "vmdk-broken", "vmdk-desc-missing-extent", "vpc", "vhdx",
                                         "vhdx-diff", "vdi",  "broken"};
const std::set<std::string> refused_formats{"qcow", "dmg", "ewf", "bochs", "zip", "tar"};

/// Rows that only one code may answer.
const std::map<std::string, std::string> codes{
    {"sleuthkit/bogus.E01", "FORMAT_UNKNOWN"},
    {"virt-manager/vmx_input/vmx-dir/test-vmdk-desc.vmdk", "PARENT_MISSING"},
    {"go-vmdk-parser/vmdk-invalid.img", "IMAGE_CORRUPT"},
    {"cdi/invalid-qcow-large-memory.img", "IMAGE_CORRUPT"},
    {"negative/vmdk-flat-up.vmdk", "PATH_NOT_ALLOWED"},
    {"negative/vmdk-parent-passwd.vmdk", "PATH_NOT_ALLOWED"},
    {"negative/vmdk-neg-sectors.vmdk", "IMAGE_CORRUPT"},
    {"negative/vmdk-huge-sectors.vmdk", "IMAGE_CORRUPT"},
    {"negative/vmdk-no-extents.vmdk", "IMAGE_CORRUPT"},
    {"negative/vmdk-10k-extents.vmdk", "IMAGE_CORRUPT"},
    {"negative/vmdk-unknown-type.vmdk", "IMAGE_CORRUPT"},
    {"negative/vmdk-sparse-self.vmdk", "IMAGE_CORRUPT"},
    {"negative/vmdk-gran-0.vmdk", "IMAGE_CORRUPT"},
    {"negative/vmdk-ngte-0.vmdk", "IMAGE_CORRUPT"},
    {"negative/vmdk-ngte-huge.vmdk", "IMAGE_CORRUPT"},
    {"negative/vmdk-stream-gd-at-end-nofooter.vmdk", "DISK_TRUNCATED"},
    {"negative/vmdk-stream-trunc.vmdk", "DISK_TRUNCATED"},
    {"negative/vmdk-stream-grainlen.vmdk", "IMAGE_CORRUPT"},
    {"negative/vhd-fixed-short.vhd", "DISK_TRUNCATED"},
    {"negative/vhd-bat-off.vhd", "DISK_TRUNCATED"},
    {"negative/vhd-bat-eof.vhd", "DISK_TRUNCATED"},
    {"negative/vhd-maxent-huge.vhd", "DISK_TRUNCATED"},
    {"negative/vhd-maxent-small.vhd", "IMAGE_CORRUPT"},
    {"negative/vhd-bs-0.vhd", "IMAGE_CORRUPT"},
    {"negative/vhdx-both-hdr-bad.vhdx", "IMAGE_CORRUPT"},
    {"negative/vhdx-lss-777.vhdx", "IMAGE_CORRUPT"},
    {"negative/vhdx-size-65T.vhdx", "IMAGE_CORRUPT"},
    {"negative/vhdx-diff-noparent.vhdx", "IMAGE_CORRUPT"},
    {"negative/vhdx-unknown-required-region.vhdx", "FORMAT_UNSUPPORTED"},
    {"negative/vdi-bmap-dup.vdi", "IMAGE_CORRUPT"},
    {"negative/vdi-bs-0.vdi", "IMAGE_CORRUPT"},
    {"negative/vdi-offdata-eof.vdi", "DISK_TRUNCATED"},
    {"negative/vdi-version-2.vdi", "FORMAT_UNSUPPORTED"},
    {"negative/vdi-sector-4k.vdi", "FORMAT_UNSUPPORTED"},
};

/// Rows whose listed content is what one reader made of them, and wrong; they have tests of their own below.
const std::set<std::string> own_tests{
    "negative/vmdk-zero-extent.vmdk", "negative/vmdk-noaccess.vmdk", "negative/vhd-fixed-spoof-dynamic.vhd",
    // Ten thousand zero bytes that the descriptor beside it calls a VMDK: not an image.
    "virt-manager/ovf_input/ovf_directory/CentOS-6.4-i386-Gnome-disk1.vmdk"};

/// Opens, checks and reads all of the image; the code of the error that ended it, or "".
std::string outcome(const fs::path& path, const Row& row) {
  try {
    const auto image = open_image(path);
    image->extents({0, image->size()});
    if (row.expect.starts_with("accept") || row.expect.find("bounded") != std::string::npos)
      expect_content(*image, row);
    else
      hash_of_data(*image);
    return {};
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(path.filename().string()), std::string::npos)
        << "the message does not name the file: " << error.what();
    return error.code();
  }
}

class Samples : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = sample_images();
    if (directory_.empty())
      GTEST_SKIP() << "the foreign sample images (../shared/images) are NOT HERE: hundreds of checks are not made";
  }
  fs::path directory_;
};

TEST_F(Samples, AreReadOrRefusedAsTheirTableSays) {
  const std::vector<Row> rows = read_index(fs::absolute("../shared/images/INDEX.tsv"));
  unsigned read = 0, refused = 0;
  for (const Row& row : rows) {
    SCOPED_TRACE(row.path + " (" + row.expect + ")");
    if (own_tests.contains(row.path))
      continue;
    const fs::path path = directory_ / row.path;
    if (refused_formats.contains(row.format)) {
      expect_error("FORMAT_UNSUPPORTED", [&] { open_image(path); });
      refused++;
      continue;
    }
    if (!read_formats.contains(row.format))
      continue;
    const std::string code = outcome(path, row);
    if (const auto known = codes.find(row.path); known != codes.end()) {
      EXPECT_EQ(code, known->second);
    }
    const bool may_accept = !row.expect.starts_with("reject") || row.expect.find("warn") != std::string::npos ||
                            row.expect.find("bounded") != std::string::npos;
    const bool may_reject = !row.expect.starts_with("accept") || row.expect.find("reject") != std::string::npos;
    if (code.empty()) {
      EXPECT_TRUE(may_accept) << "was read";
      read++;
    } else {
      EXPECT_TRUE(may_reject) << "was refused: " << code;
      refused++;
    }
  }
  EXPECT_GE(read, 12U);
  EXPECT_GE(refused, 50U);
}

TEST_F(Samples, ZeroExtentsOfAVmdkAreZeros) {
  const auto image = open_image(directory_ / "negative/vmdk-zero-extent.vmdk");
  const UniqueFd fd = open_source(directory_ / "negative/ext.bin");
  Bytes ext(16 * 512);
  read_exact(fd.get(), 0, ext, "ext.bin");
  ASSERT_EQ(image->size(), 2064U * 512);
  const Bytes all = read_all(*image, 0, image->size());
  EXPECT_EQ(std::memcmp(all.data(), ext.data(), 4096), 0);
  EXPECT_TRUE(is_zero(ByteSpan(all).subspan(4096, 2048 * 512)));
  EXPECT_EQ(std::memcmp(all.data() + 4096 + 2048 * 512, ext.data() + 4096, 4096), 0);
}

TEST_F(Samples, NoAccessExtentsOfAVmdkAreZerosAndNoted) {
  const auto image = open_image(directory_ / "negative/vmdk-noaccess.vmdk");
  ASSERT_EQ(image->size(), 16U * 512);
  EXPECT_TRUE(is_zero(read_all(*image, 4096, 4096)));
  ASSERT_EQ(image->info().notes.size(), 1U);
  EXPECT_NE(image->info().notes[0].find("NOACCESS"), std::string::npos);
}

TEST_F(Samples, TheTrailingFooterDecidesWhatAVhdIs) {
  const fs::path path = directory_ / "negative/vhd-fixed-spoof-dynamic.vhd";
  const auto image = open_image(path);
  EXPECT_EQ(image->info().variant, "fixed");
  ASSERT_EQ(image->size(), 4U << 20);
  Bytes expected(4U << 20);
  const UniqueFd fd = open_source(path);
  read_exact(fd.get(), 0, expected, "vhd");
  EXPECT_EQ(read_all(*image, 0, 4U << 20), expected);
}

TEST_F(Samples, OdditiesThatAreGotOverAreNoted) {
  for (const char* name : {"vhd-trailing-footer-lost.vhd", "vhdx-hdr1-bad.vhdx", "vhdx-bat-state5.vhdx"}) {
    SCOPED_TRACE(name);
    const auto image = open_image(directory_ / "negative" / name);
    image->extents({0, image->size()});
    EXPECT_EQ(image->info().notes.size(), 1U);
  }
  EXPECT_EQ(open_image(directory_ / "negative/vhdx-4k-sectors.vhdx")->info().logical_sector, 4096U);
}

} // namespace
} // namespace kvmport::test
