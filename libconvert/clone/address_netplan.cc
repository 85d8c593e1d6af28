// SPDX-License-Identifier: Apache-2.0
// netplan(5): YAML, read by libyaml, whose nodes tell their places in the text, and edited there: one small edit after
// another, each on what the last one left. Files with anchors and aliases are not edited: a change would show in two
// places.
#include "base/error.h"
#include "libconvert/clone/address_config.h"
#include "libconvert/guest/linux/network_config.h"
#include "libconvert/guest/linux/text.h"

#include <algorithm>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <yaml.h>

namespace kvmport::identity {
namespace {

/// A text's first document. Nodes live as long as it.
class Yaml {
 public:
  explicit Yaml(const std::string& text) : text_(text) {
    yaml_parser_t parser;
    if (::yaml_parser_initialize(&parser) == 0)
      throw Error("IO_ERROR", "libyaml can't be used");
    ::yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
    ::yaml_parser_set_input_string(&parser, reinterpret_cast<const unsigned char*>(text.data()), text.size());
    loaded_ = ::yaml_parser_load(&parser, &document_) != 0;
    ::yaml_parser_delete(&parser);
    for (std::size_t i = 0; i < text.size(); i++) // libyaml counts characters
      if ((static_cast<unsigned char>(text[i]) & 0xc0U) != 0x80U)
        offsets_.push_back(i);
    offsets_.push_back(text.size());
  }
  Yaml(const Yaml&) = delete;
  Yaml& operator=(const Yaml&) = delete;
  ~Yaml() {
    if (loaded_)
      ::yaml_document_delete(&document_);
  }

  const yaml_node_t* root() const { return loaded_ ? ::yaml_document_get_root_node(&document_) : nullptr; }
  const yaml_node_t* node(int index) const { return ::yaml_document_get_node(&document_, index); }
  /// Null where there is none.
  const yaml_node_t* at(const yaml_node_t* map, std::string_view key) const {
    for (const auto& [name, value] : pairs(map))
      if (text_of(name) == key)
        return value;
    return nullptr;
  }
  std::vector<std::pair<const yaml_node_t*, const yaml_node_t*>> pairs(const yaml_node_t* map) const {
    std::vector<std::pair<const yaml_node_t*, const yaml_node_t*>> all;
    if (map != nullptr && map->type == YAML_MAPPING_NODE)
      for (const auto* pair = map->data.mapping.pairs.start; pair < map->data.mapping.pairs.top; pair++)
        all.emplace_back(node(pair->key), node(pair->value));
    return all;
  }
  std::vector<const yaml_node_t*> items(const yaml_node_t* list) const {
    std::vector<const yaml_node_t*> all;
    if (list != nullptr && list->type == YAML_SEQUENCE_NODE)
      for (const int* item = list->data.sequence.items.start; item < list->data.sequence.items.top; item++)
        all.push_back(node(*item));
    return all;
  }
  static std::string text_of(const yaml_node_t* scalar) {
    if (scalar == nullptr || scalar->type != YAML_SCALAR_NODE)
      return {};
    return {reinterpret_cast<const char*>(scalar->data.scalar.value), scalar->data.scalar.length};
  }
  static bool is_flow(const yaml_node_t* node) {
    return node->type == YAML_MAPPING_NODE ? node->data.mapping.style == YAML_FLOW_MAPPING_STYLE
                                           : node->data.sequence.style == YAML_FLOW_SEQUENCE_STYLE;
  }
  std::size_t begin(const yaml_node_t* node) const { return offset(node->start_mark); }
  /// Without the blank lines and comments behind what is in block style.
  std::size_t end(const yaml_node_t* node) const {
    const bool block = node->type != YAML_SCALAR_NODE && !is_flow(node);
    if (block && node->type == YAML_SEQUENCE_NODE && !items(node).empty())
      return end(items(node).back());
    if (block && node->type == YAML_MAPPING_NODE && !pairs(node).empty())
      return end(pairs(node).back().second);
    return offset(node->end_mark);
  }
  bool has_aliases() const {
    std::vector<int> referred(static_cast<std::size_t>(document_.nodes.top - document_.nodes.start) + 1, 0);
    bool twice = false;
    const auto refer = [&](int index) { twice = ++referred.at(static_cast<std::size_t>(index)) > 1 || twice; };
    for (const auto* each = document_.nodes.start; each < document_.nodes.top; each++)
      if (each->type == YAML_SEQUENCE_NODE)
        std::for_each(each->data.sequence.items.start, each->data.sequence.items.top, refer);
      else if (each->type == YAML_MAPPING_NODE)
        std::for_each(each->data.mapping.pairs.start, each->data.mapping.pairs.top, [&](const yaml_node_pair_t& pair) {
          refer(pair.key);
          refer(pair.value);
        });
    return twice;
  }

  // The edited text.
  std::string replaced(std::size_t from, std::size_t to, const std::string& with) const {
    return text_.substr(0, from) + with + text_.substr(to);
  }
  std::string replaced(const yaml_node_t* node, const std::string& with) const {
    return replaced(begin(node), end(node), with);
  }
  /// The first pair, or item.
  std::string inserted(const yaml_node_t* into, const std::string& what) const {
    const std::size_t at = begin(into);
    if (is_flow(into))
      return replaced(at + 1, at + 1, what + ", ");
    const std::string dash = into->type == YAML_SEQUENCE_NODE ? "- " : "";
    return replaced(at, at, dash + what + "\n" + std::string(into->start_mark.column, ' '));
  }

 private:
  std::size_t offset(const yaml_mark_t& mark) const { return offsets_[std::min(mark.index, offsets_.size() - 1)]; }

  const std::string& text_;
  mutable yaml_document_t document_{};
  bool loaded_ = false;
  std::vector<std::size_t> offsets_; ///< of characters
};

const yaml_node_t* card_node(const Yaml& yaml, const std::string& key) {
  for (const auto& [group, cards] : yaml.pairs(yaml.at(yaml.root(), "network")))
    if (const auto* card = yaml.at(cards, key); card != nullptr && card->type == YAML_MAPPING_NODE)
      return card;
  throw Error("ADDRESS_NOT_PLACED", "netplan's configuration of " + key + " can't be edited");
}

/// Of "192.0.2.7/24", or of "192.0.2.7/24": {label: …}.
const yaml_node_t* address_scalar(const Yaml& yaml, const yaml_node_t* item) {
  const auto pairs = yaml.pairs(item);
  return pairs.empty() ? item : pairs.front().first;
}

bool is_default_route(const Yaml& yaml, const yaml_node_t* route, bool v6) {
  const std::string to = Yaml::text_of(yaml.at(route, "to"));
  const auto via = parse_ip(Yaml::text_of(yaml.at(route, "via")));
  return (to == "default" || to == "0.0.0.0/0" || to == "::/0") && via && via->v6 == v6;
}

std::string quoted(const std::string& text) { // a colon must not be taken for that of a pair
  return text.find(':') == std::string::npos ? text : "\"" + text + "\"";
}

std::string with_address(const std::string& text, const std::string& key, const IpNetwork& network) {
  const Yaml yaml(text);
  const auto* card = card_node(yaml, key);
  const std::string value = quoted(network.text());
  const auto* list = yaml.at(card, "addresses");
  if (list == nullptr)
    return yaml.inserted(card, "addresses: [" + value + "]");
  for (const auto* item : yaml.items(list)) {
    const auto* scalar = address_scalar(yaml, item);
    if (const auto old = parse_network(Yaml::text_of(scalar)); old && old->address.v6 == network.address.v6)
      return yaml.replaced(scalar, value);
  }
  return list->type == YAML_SEQUENCE_NODE ? yaml.inserted(list, value) : yaml.replaced(list, " [" + value + "]");
}

std::string without_dhcp(const std::string& text, const std::string& key, bool v6) {
  const Yaml yaml(text);
  const auto* how = yaml.at(card_node(yaml, key), v6 ? "dhcp6" : "dhcp4");
  return how == nullptr ? text : yaml.replaced(how, "false");
}

std::string with_gateway(const std::string& text, const std::string& key, const IpAddress& gateway) {
  const Yaml yaml(text);
  const auto* card = card_node(yaml, key);
  const std::string via = quoted(gateway.text());
  if (const auto* old = yaml.at(card, gateway.v6 ? "gateway6" : "gateway4"))
    return yaml.replaced(old, via);
  const auto* routes = yaml.at(card, "routes");
  for (const auto* route : yaml.items(routes))
    if (is_default_route(yaml, route, gateway.v6))
      return yaml.replaced(yaml.at(route, "via"), via);
  const std::string route = fmt::format("{{to: {}, via: {}}}", gateway.v6 ? "\"::/0\"" : "0.0.0.0/0", via);
  if (routes != nullptr && routes->type == YAML_SEQUENCE_NODE)
    return yaml.inserted(routes, route);
  return yaml.inserted(card, "routes: [" + route + "]");
}

std::string with_servers(const std::string& text, const std::string& key, const std::vector<IpAddress>& dns) {
  const Yaml yaml(text);
  const auto* card = card_node(yaml, key);
  std::vector<std::string> texts;
  for (const IpAddress& server : dns)
    texts.push_back(quoted(server.text()));
  const std::string list = fmt::format("addresses: [{}]", fmt::join(texts, ", "));
  const auto* servers = yaml.at(card, "nameservers");
  if (servers == nullptr || servers->type != YAML_MAPPING_NODE)
    return yaml.inserted(card, "nameservers: {" + list + "}");
  for (const auto& [name, value] : yaml.pairs(servers))
    if (Yaml::text_of(name) == "addresses")
      return yaml.replaced(yaml.begin(name), yaml.end(value), list);
  return yaml.inserted(servers, list);
}

CardConfig read_card(const Yaml& yaml, const std::string& group, const std::string& key, const yaml_node_t* node) {
  CardConfig card{.kind = CardConfig::Kind::netplan, .file = {}, .name = key};
  card.key = key;
  card.software = group != "ethernets";
  if (const auto* match = yaml.at(node, "match")) {
    card.name = Yaml::text_of(yaml.at(match, "name"));
    card.mac = linux_guest::normal_mac(Yaml::text_of(yaml.at(match, "macaddress")));
  }
  if (const std::string name = Yaml::text_of(yaml.at(node, "set-name")); !name.empty())
    card.name = name;
  const auto is_true = [&](const char* name) {
    const std::string text = linux_guest::lower(Yaml::text_of(yaml.at(node, name)));
    return text == "true" || text == "yes" || text == "on" || text == "y";
  };
  card.dhcp4 = is_true("dhcp4");
  card.dhcp6 = is_true("dhcp6");
  for (const auto* item : yaml.items(yaml.at(node, "addresses")))
    if (const auto network = parse_network(Yaml::text_of(address_scalar(yaml, item))))
      card.addresses.push_back(*network);
  for (const char* name : {"gateway4", "gateway6"})
    if (const auto gateway = parse_ip(Yaml::text_of(yaml.at(node, name))))
      card.gateways.push_back(*gateway);
  for (const auto* route : yaml.items(yaml.at(node, "routes")))
    if (const auto gateway = parse_ip(Yaml::text_of(yaml.at(route, "via")));
        gateway && is_default_route(yaml, route, gateway->v6))
      card.gateways.push_back(*gateway);
  return card;
}

} // namespace

std::vector<CardConfig> read_netplan(const std::string& text, const std::string& file) {
  const Yaml yaml(text);
  std::vector<CardConfig> cards;
  for (const auto& [group, members] : yaml.pairs(yaml.at(yaml.root(), "network")))
    for (const auto& [key, node] : yaml.pairs(members)) {
      cards.push_back(read_card(yaml, Yaml::text_of(group), Yaml::text_of(key), node));
      cards.back().file = file;
    }
  return cards;
}

std::string edit_netplan(const std::string& text, const CardConfig& card, const StaticAddress& wanted) {
  if (Yaml(text).has_aliases())
    throw Error("ADDRESS_NOT_PLACED", card.file + " uses YAML aliases: an address can't be written there", {},
                "write the file out without them in the source");
  std::string after = text;
  if (!wanted.dns.empty())
    after = with_servers(after, card.key, wanted.dns);
  for (const IpAddress& gateway : wanted.gateways)
    after = with_gateway(after, card.key, gateway);
  for (const IpNetwork& network : wanted.addresses) {
    after = without_dhcp(after, card.key, network.address.v6);
    after = with_address(after, card.key, network);
  }
  return after;
}

} // namespace kvmport::identity
