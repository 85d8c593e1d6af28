// SPDX-License-Identifier: Apache-2.0
#include "libconvert/p2v/dirty_map.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <stdexcept>

namespace kvmport {
namespace {

constexpr std::uint64_t word_bits = 64;

void append(std::vector<Range>& list, Range range) {
  if (range.length == 0)
    return;
  if (!list.empty() && list.back().end() >= range.offset)
    list.back().length = std::max(list.back().end(), range.end()) - list.back().offset;
  else
    list.push_back(range);
}

} // namespace

DirtyMap::DirtyMap(std::uint64_t size, std::uint64_t granularity) : size_(size), granularity_(granularity) {
  if (!std::has_single_bit(granularity))
    throw std::invalid_argument("the granularity must be a power of two");
  bits_.resize(div_round_up(div_round_up(size, granularity), word_bits));
}

void DirtyMap::mark(Range range) {
  if (range.length == 0 || range.offset >= size_)
    return;
  const std::uint64_t length = std::min(range.length, size_ - range.offset);
  const std::uint64_t last = (range.offset + length - 1) / granularity_;
  for (std::uint64_t piece = range.offset / granularity_; piece <= last; piece++) {
    std::uint64_t& word = bits_[piece / word_bits];
    const std::uint64_t bit = std::uint64_t{1} << piece % word_bits;
    marked_ += (word & bit) == 0 ? 1 : 0;
    word |= bit;
  }
}

std::vector<Range> DirtyMap::take() {
  std::vector<Range> list;
  if (marked_ == 0)
    return list;
  for (std::size_t at = 0; at < bits_.size(); at++) {
    for (std::uint64_t word = bits_[at]; word != 0; word &= word - 1) {
      const std::uint64_t offset = (at * word_bits + static_cast<std::uint64_t>(std::countr_zero(word))) * granularity_;
      append(list, {offset, std::min(granularity_, size_ - offset)});
    }
    bits_[at] = 0;
  }
  marked_ = 0;
  return list;
}

std::vector<Range> subtracted(const std::vector<Range>& from, const std::vector<Range>& minus) {
  std::vector<Range> list;
  std::size_t at = 0;
  for (const Range& one : from) {
    std::uint64_t start = one.offset;
    while (at < minus.size() && minus[at].end() <= start)
      at++;
    for (std::size_t i = at; i < minus.size() && minus[i].offset < one.end(); i++) {
      if (minus[i].offset > start)
        append(list, {start, minus[i].offset - start});
      start = std::max(start, minus[i].end());
    }
    if (start < one.end())
      append(list, {start, one.end() - start});
  }
  return list;
}

std::vector<Range> widened(const std::vector<Range>& list, std::uint64_t granularity, std::uint64_t size) {
  std::vector<Range> result;
  for (const Range& one : list) {
    const std::uint64_t start = one.offset / granularity * granularity;
    append(result, {start, std::min(round_up(one.end(), granularity), size) - start});
  }
  return result;
}

std::vector<Range> united(std::vector<Range> a, const std::vector<Range>& b) {
  a.insert(a.end(), b.begin(), b.end());
  std::sort(a.begin(), a.end(), [](const Range& x, const Range& y) { return x.offset < y.offset; });
  std::vector<Range> list;
  for (const Range& one : a)
    append(list, one);
  return list;
}

std::uint64_t bytes_of(const std::vector<Range>& list) {
  return std::accumulate(list.begin(), list.end(), std::uint64_t{0},
                         [](std::uint64_t sum, const Range& one) { return sum + one.length; });
}

} // namespace kvmport
