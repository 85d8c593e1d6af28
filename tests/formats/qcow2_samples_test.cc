// SPDX-License-Identifier: Apache-2.0
// Foreign and hostile qcow2 images, when this machine has them: their index says what a correct tool does.
#include "formats/image.h"
#include "tests/formats/fixtures.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <openssl/evp.h>
#include <sstream>

namespace kvmport::test {
namespace {

namespace fs = std::filesystem;

struct Sample {
  std::string path, format, expect, sha256;
};

std::vector<Sample> index_of(const fs::path& file) {
  std::vector<Sample> samples;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    std::vector<std::string> column;
    std::istringstream fields(line);
    for (std::string field; std::getline(fields, field, '\t');)
      column.push_back(field);
    column.resize(std::max<std::size_t>(column.size(), 9));
    if (column[1].starts_with("qcow2"))
      samples.push_back({column[0], column[1], column[6], column[8]});
  }
  return samples;
}

/// Lower-case hex SHA-256 of all that a copy would read.
std::string digest_of(const Image& image) {
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), &EVP_MD_CTX_free);
  EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr);
  Bytes buffer(4 << 20);
  for (std::uint64_t at = 0; at < image.size(); at += buffer.size()) {
    const auto part = std::span(buffer).first(std::min<std::uint64_t>(buffer.size(), image.size() - at));
    image.read(at, part);
    EVP_DigestUpdate(context.get(), part.data(), part.size());
  }
  std::array<unsigned char, 32> digest{};
  EVP_DigestFinal_ex(context.get(), digest.data(), nullptr);
  std::ostringstream hex;
  for (const unsigned char c : digest)
    hex << "0123456789abcdef"[c >> 4] << "0123456789abcdef"[c & 15];
  return hex.str();
}

/// The code of each refusal, by file name.
const std::map<std::string, std::string> refusals{
    {"qcow2-hdrlen-unaligned.qcow2", "IMAGE_CORRUPT"},
    {"qcow2-rt-clusters-huge.qcow2", "IMAGE_CORRUPT"},
    {"qcow2-snaps-huge.qcow2", "IMAGE_CORRUPT"},
    {"qcow2-l1-size-huge.qcow2", "IMAGE_CORRUPT"},
    {"qcow2-l1-off-misaligned.qcow2", "IMAGE_CORRUPT"},
    {"qcow2-l1-off-eof.qcow2", "DISK_TRUNCATED"},
    {"qcow2-l1-size-0.qcow2", "IMAGE_CORRUPT"},
    {"qcow2-backing-size-huge.qcow2", "IMAGE_CORRUPT"},
    {"qcow2-size-huge.qcow2", "IMAGE_CORRUPT"},
    {"qcow2-crypt-1.qcow2", "IMAGE_ENCRYPTED"},
    {"qcow2-l1-entry-eof.qcow2", "DISK_TRUNCATED"},
    {"qcow2-l1-entry-header.qcow2", "IMAGE_CORRUPT"},
    {"qcow2-l2-entry-eof.qcow2", "IMAGE_CORRUPT"},
    {"qcow2-l2-comp-garbage.qcow2", "IMAGE_CORRUPT"},
    {"qcow2-corrupt-bit.qcow2", "IMAGE_CORRUPT"},
    {"qcow2-l1-self.qcow2", "IMAGE_CORRUPT"},
    {"qcow2-backing-etc-passwd.qcow2", "PATH_NOT_ALLOWED"},
    {"qcow2-backing-json.qcow2", "PATH_NOT_ALLOWED"},
    {"qcow2-backing-nbd.qcow2", "PATH_NOT_ALLOWED"},
    {"qcow2-backing-http.qcow2", "PATH_NOT_ALLOWED"},
    {"qcow2-backing-fifo.qcow2", "PATH_NOT_ALLOWED"},
    {"loop-b.qcow2", "CHAIN_LOOP"},
    {"self.qcow2", "CHAIN_LOOP"},
    {"deep-000.qcow2", "CHAIN_LOOP"},
    {"qcow2-comp-overlong.qcow2", "IMAGE_CORRUPT"},
    {"cirros-snapshot1.qcow2", "PARENT_MISSING"},
    {"cirros-snapshot2.qcow2", "PARENT_MISSING"},
};

TEST(Qcow2Samples, AreReadOrRefusedAsTheirIndexSays) {
  const fs::path directory = sample_images();
  if (directory.empty())
    GTEST_SKIP() << "the foreign sample images are not on this machine";
  const auto samples = index_of("../shared/images/INDEX.tsv");
  ASSERT_GE(samples.size(), 30U);
  for (const Sample& sample : samples) {
    SCOPED_TRACE(sample.path);
    const fs::path path = directory / sample.path;
    const auto refusal = refusals.find(path.filename().string());
    if (refusal != refusals.end()) {
      EXPECT_FALSE(sample.expect.starts_with("accept"));
      const std::string text = expect_error(refusal->second, [&] {
        const auto image = open_image(path);
        image->extents({0, image->size()});
        digest_of(*image);
      });
      EXPECT_NE(text.find(".qcow2"), std::string::npos) << "the file is not named: " << text;
      continue;
    }
    EXPECT_TRUE(sample.expect.starts_with("accept")) << sample.expect;
    EXPECT_EQ(probe_format(path), "qcow2");
    const auto image = open_image(path);
    image->extents({0, image->size()});
    if (!sample.sha256.empty()) {
      EXPECT_EQ(digest_of(*image), sample.sha256);
    }
  }
}

} // namespace
} // namespace kvmport::test
