// SPDX-License-Identifier: Apache-2.0
// A page and format files as Linux 6.18 and 6.1 wrote them, pages made by hand, and damage.
#include "libconvert/p2v/trace_page.h"
#include "tests/support/tempdir.h"

#include <gtest/gtest.h>
#include <random>

namespace kvmport::test {
namespace {

std::string recorded(const std::string& name) {
  return read_file("tests/p2v/data/" + name);
}

const TracePageLayout layout{{8, 8}, {16, 4080}};

/// A page of events by their raw words; the rest of it is zeros.
Bytes page_of(const std::vector<std::uint32_t>& words, std::uint32_t flags = 0) {
  Bytes page(4096);
  store_le<std::uint64_t>(page, 8, words.size() * 4 | flags);
  for (std::size_t i = 0; i < words.size(); i++)
    store_le<std::uint32_t>(page, 16 + i * 4, words[i]);
  return page;
}

/// The first words of the events.
std::vector<std::uint32_t> first_words(ByteSpan page, bool* missed = nullptr) {
  std::vector<std::uint32_t> list;
  const bool lost =
      read_trace_page(page, layout, [&](ByteSpan event) { list.push_back(load_le<std::uint32_t>(event, 0)); });
  if (missed != nullptr)
    *missed = lost;
  return list;
}

TEST(TraceFormat, OfThisKernelIsUnderstood) {
  const TraceFormat queue = parse_trace_format(recorded("bio-queue-6.18.format"));
  EXPECT_EQ(queue.id, 2097U);
  EXPECT_EQ(queue.field("common_type").size, 2U);
  EXPECT_EQ(queue.field("dev").offset, 8U);
  EXPECT_EQ(queue.field("sector").offset, 16U);
  EXPECT_EQ(queue.field("sector").size, 8U);
  EXPECT_EQ(queue.field("nr_sector").offset, 24U);
  EXPECT_EQ(queue.field("rwbs").offset, 28U);
  EXPECT_EQ(queue.field("rwbs").size, 10U);
  EXPECT_THROW(queue.field("bwrs"), Error);
  const TraceFormat complete = parse_trace_format(recorded("rq-complete-6.18.format"));
  EXPECT_EQ(complete.field("rwbs").offset, 34U);
  EXPECT_EQ(complete.field("cmd").offset, 44U);
  const TracePageLayout page = parse_page_layout(recorded("header-page-6.18"));
  EXPECT_EQ(page.commit.offset, 8U);
  EXPECT_EQ(page.data.offset, 16U);
  EXPECT_EQ(page.data.size, 4080U);
}

TEST(TraceFormat, OtherTextIsNone) {
  for (const char* text :
       {"", "ID: x\n", "field:int a;\n", "\tfield:int a;\toffset:99999;\tsize:4;\n", "field:;offset:;"}) {
    const TraceFormat format = parse_trace_format(text);
    EXPECT_EQ(format.id, 0U) << text;
    EXPECT_TRUE(format.fields.empty()) << text;
  }
  EXPECT_THROW(parse_page_layout("\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n"), Error);
}

/// dd wrote 2 × 64 KiB at 192 KiB and one sector at 9, a second later something read.
TEST(TracePage, RecordedOneIsRead) {
  const TraceFormat queue = parse_trace_format(recorded("bio-queue-6.18.format"));
  const TraceFormat complete = parse_trace_format(recorded("rq-complete-6.18.format"));
  const std::string text = recorded("page-6.18");
  std::vector<std::string> seen;
  unsigned reads = 0;
  EXPECT_FALSE(read_trace_page(as_bytes(text), layout, [&](ByteSpan event) {
    const bool queued = trace_number(event, queue.field("common_type")) == queue.id;
    const TraceFormat& format = queued ? queue : complete;
    ASSERT_EQ(trace_number(event, format.field("common_type")), format.id);
    EXPECT_EQ(trace_number(event, format.field("dev")), 7U << 20);
    const std::string letters(trace_text(event, format.field("rwbs")));
    if (letters.starts_with("R"))
      reads++;
    else
      seen.push_back((queued ? "queued " : "done ") + letters + " " +
                     std::to_string(trace_number(event, format.field("sector"))) + " + " +
                     std::to_string(trace_number(event, format.field("nr_sector"))));
  }));
  EXPECT_EQ(seen, (std::vector<std::string>{"queued WS 384 + 128", "done WS 384 + 128", "queued WS 512 + 128",
                                            "done WS 512 + 128", "queued WS 9 + 1", "done WS 9 + 1"}));
  EXPECT_GT(reads, 20U);
}

TEST(TracePage, EachKindOfRecordIsRead) {
  bool missed = true;
  EXPECT_TRUE(first_words(page_of({}), &missed).empty());
  EXPECT_FALSE(missed);
  // Short data with a time delta; a long one with its own length; time records; a discarded one.
  const std::vector<std::uint32_t> words{2 | 77 << 5, 11, 12, 0,           12, 21, 22, 30 | 5 << 5,
                                         9,           31, 9,  29 | 1 << 5, 8,  0,  1,  31};
  EXPECT_EQ(first_words(page_of(words)), (std::vector<std::uint32_t>{11, 21, 31}));
  EXPECT_EQ(first_words(page_of({1, 41, 29, 0, 1, 42})), std::vector<std::uint32_t>{41}) << "the rest is unused";
  EXPECT_EQ(first_words(page_of({1, 41}, 1U << 31), &missed), std::vector<std::uint32_t>{41});
  EXPECT_TRUE(missed);
  EXPECT_EQ(first_words(page_of({1, 41}, 3U << 30), &missed), std::vector<std::uint32_t>{41});
  EXPECT_TRUE(missed);
}

TEST(TracePage, DamageIsAnError) {
  for (const auto& words : {std::vector<std::uint32_t>{3, 1}, {0, 100, 1}, {0, 3, 1}, {0}, {28}, {30}}) {
    EXPECT_THROW(first_words(page_of(words)), Error) << words.front();
  }
  Bytes page = page_of({1, 41});
  store_le<std::uint64_t>(page, 8, 5000);
  EXPECT_THROW(first_words(page), Error);
  EXPECT_THROW(first_words(ByteSpan(page).first(12)), Error);
}

/// Whatever lies in a page: an error or events inside of it, and an end.
TEST(TracePage, AnyBytesAreSurvived) {
  std::mt19937 random(4);
  for (unsigned i = 0; i < 20000; i++) {
    Bytes page(256);
    for (auto& byte : page)
      byte = static_cast<std::byte>(random() % (i % 3 == 0 ? 256 : 32));
    store_le<std::uint64_t>(page, 8, random() % 240);
    try {
      read_trace_page(page, layout, [&](ByteSpan event) {
        EXPECT_GE(event.data(), page.data() + 16);
        EXPECT_LE(event.data() + event.size(), page.data() + page.size());
      });
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), "TRACE_CORRUPT");
    }
  }
}

TEST(TracePage, LostEventsAreCounted) {
  EXPECT_EQ(lost_events("entries: 5\noverrun: 0\ncommit overrun: 0\nbytes: 12\ndropped events: 0\nread events: 7\n"),
            0U);
  EXPECT_EQ(lost_events("entries: 5\noverrun: 3\ncommit overrun: 20\ndropped events: 100\nread events: 7\n"), 123U);
}

} // namespace
} // namespace kvmport::test
