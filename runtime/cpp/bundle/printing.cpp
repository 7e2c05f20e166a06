// Values as Python writes them: its canonical JSON, its repr, its shortest numbers.
#include <algorithm>
#include <cmath>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include <locale.h>

#include "bundle/shown.hpp"
#include "bundle/value.hpp"

namespace edgeprune {

namespace {

// Numbers with a point, whatever the language of the program around this library.
class PlainNumbers {
  public:
    PlainNumbers() : plain_(newlocale(LC_NUMERIC_MASK, "C", nullptr)), before_(uselocale(plain_)) {}
    ~PlainNumbers() {
        uselocale(before_);
        if (plain_) freelocale(plain_);
    }
    PlainNumbers(const PlainNumbers &) = delete;
    PlainNumbers &operator=(const PlainNumbers &) = delete;

  private:
    locale_t plain_, before_;
};

struct Decimal {
    std::string digits;  // without zeros at its end
    int exponent;        // of the first digit: 1 for "15" that means 15
};

Decimal decimal(const char *scientific) {  // "1.50e+01"
    const std::string text = scientific;
    const std::size_t e = text.find('e');
    std::string digits = text.substr(0, 1) + (e > 2 ? text.substr(2, e - 2) : "");
    digits.erase(std::max<std::size_t>(digits.find_last_not_of('0') + 1, 1));
    return {digits, std::atoi(text.c_str() + e + 1)};
}

// The fewest digits that are read back as `number` (finite, above 0), and of those the nearest ones.
Decimal shortest(double number) {
    const PlainNumbers plain;
    char text[40];
    // Any 15 digits survive; a number that has lost bits to being very small may need fewer.
    for (int count = number < 0x1p-1022 ? 1 : 15; count <= 17; ++count) {
        std::snprintf(text, sizeof text, "%.*e", count - 1, number);
        if (std::strtod(text, nullptr) == number) return decimal(text);
        // Above a power of two numbers lie twice as far apart as below: the next digits up may do where the nearest,
        // below it, do not.
        int unused = 0;
        if (std::frexp(number, &unused) != 0.5) continue;
        char *last = text + (count > 1 ? count : 0);
        if (*last == '9') continue;
        ++*last;
        if (std::strtod(text, nullptr) == number) return decimal(text);
    }
    return decimal(text);
}

constexpr char HEX[] = "0123456789abcdef";

void add_unit(std::string &out, std::uint32_t unit) {
    out += "\\u";
    for (int shift = 12; shift >= 0; shift -= 4) out += HEX[unit >> shift & 0xfU];
}

void add_text(std::string &out, const std::string &text) {
    out += '"';
    for (std::size_t at = 0; at < text.size();) {
        const std::uint32_t point = next_code_point(text, at);
        constexpr std::string_view PLAIN = "\"\\\n\r\t\f\b", SHORT = "\"\\nrtfb";
        if (const std::size_t place = point < 0x80 ? PLAIN.find(static_cast<char>(point)) : PLAIN.npos;
            place != PLAIN.npos) {
            out += '\\';
            out += SHORT[place];
        } else if (point >= ' ' && point <= '~') {
            out += static_cast<char>(point);
        } else if (point < 0x10000) {
            add_unit(out, point);
        } else {
            add_unit(out, 0xd7c0 + (point >> 10));
            add_unit(out, 0xdc00 | (point & 0x3ffU));
        }
    }
    out += '"';
}

void add_canonical(std::string &out, const Value &value) {
    if (value.null()) out += "null";
    else if (const bool *truth = value.truth()) out += *truth ? "true" : "false";
    else if (const std::int64_t *whole = value.whole()) out += std::to_string(*whole);
    else if (const double *real = value.real()) out += repr(*real);
    else if (const std::string *text = value.text()) add_text(out, *text);
    else if (const Array *items = value.array()) {
        const char *before = "[";
        for (const Value &one : *items) {
            out += before;
            add_canonical(out, one);
            before = ",";
        }
        out += items->empty() ? "[]" : "]";
    } else {
        std::vector<const Object::value_type *> members;
        for (const auto &member : *value.object()) members.push_back(&member);
        std::sort(members.begin(), members.end(), [](auto *a, auto *b) { return a->first < b->first; });
        const char *before = "{";
        for (const auto *member : members) {
            out += before;
            add_text(out, member->first);
            out += ':';
            add_canonical(out, member->second);
            before = ",";
        }
        out += members.empty() ? "{}" : "}";
    }
}

void add_repr(std::string &out, const Value &value, bool tuple, std::size_t enough) {
    if (out.size() > enough) return;
    if (value.null()) out += "None";
    else if (const bool *truth = value.truth()) out += *truth ? "True" : "False";
    else if (const std::int64_t *whole = value.whole()) out += std::to_string(*whole);
    else if (const double *real = value.real()) out += repr(*real);
    else if (const std::string *text = value.text()) out += repr(*text);
    else if (const Array *items = value.array()) {
        out += tuple ? '(' : '[';
        for (std::size_t at = 0; at < items->size() && out.size() <= enough; ++at) {
            if (at) out += ", ";
            add_repr(out, (*items)[at], false, enough);
        }
        out += tuple ? (items->size() == 1 ? ",)" : ")") : "]";
    } else {
        const char *before = "";
        out += '{';
        for (const auto &[name, one] : *value.object()) {
            if (out.size() > enough) break;
            out += before + repr(name) + ": ";
            add_repr(out, one, false, enough);
            before = ", ";
        }
        out += '}';
    }
}

}  // namespace

std::string canonical(const Value &value) {
    std::string out;
    add_canonical(out, value);
    return out;
}

std::string repr(double number) {
    if (std::isnan(number)) return "nan";
    const std::string sign = std::signbit(number) ? "-" : "";
    if (std::isinf(number)) return sign + "inf";
    if (number == 0) return sign + "0.0";
    auto [digits, exponent] = shortest(std::fabs(number));
    const int count = static_cast<int>(digits.size());
    if (exponent < -4 || exponent >= 16) {
        char tail[8];
        std::snprintf(tail, sizeof tail, "e%+03d", exponent);
        return sign + digits.substr(0, 1) + (count > 1 ? "." + digits.substr(1) : "") + tail;
    }
    const auto zeros = [](int times) { return std::string(static_cast<std::size_t>(times), '0'); };
    if (exponent < 0) return sign + "0." + zeros(-exponent - 1) + digits;
    if (count <= exponent + 1) return sign + digits + zeros(exponent + 1 - count) + ".0";
    const auto point = static_cast<std::size_t>(exponent + 1);
    return sign + digits.substr(0, point) + "." + digits.substr(point);
}

std::string repr(const Value &value, bool tuple, std::size_t count) {
    std::string out;
    add_repr(out, value, tuple, 4 * count);
    return first(out, count);
}

}  // namespace edgeprune
