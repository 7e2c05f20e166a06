#include "parity/outputs.hpp"

#include "parity/inside.hpp"

#include <algorithm>
#include <cmath>

namespace edgeprune::parity {

namespace {

// Scores that show whether they were rounded to float16; a few may be float16 numbers by chance
constexpr std::size_t TELLING = 4;
// Far more than a float32 score of another executor differs by, and far less than most differ from a float16 number
constexpr float ROUNDING = 1e-5F;

// [B, N]: which patches of each image are kept.
Mask kept_of(const View &scores, const View &indices) {
    if (scores.shape.size() != 2 || indices.shape.size() != 2)
        throw misfit("indices and scores must be [B, K] and [B, N], got ", shown(indices.shape), " and ",
                     shown(scores.shape));
    const auto lines = length(scores), given = length(indices), most = std::max(lines, given);
    if ((lines != most && lines != 1) || (given != most && given != 1))
        throw misfit("shape mismatch: scores are of ", lines, " images, indices of ", given);
    const auto patches = static_cast<std::size_t>(scores.shape[1]), keep = static_cast<std::size_t>(indices.shape[1]);
    const Places every = places(indices);
    Mask kept(lines * patches, 0);
    for (std::size_t image = 0; lines && given && image < most; ++image)
        for (std::size_t at = 0; at < keep; ++at)
            kept[(lines == 1 ? 0 : image) * patches + place(every[(given == 1 ? 0 : image) * keep + at], patches)] = 1;
    return kept;
}

std::size_t not_finite(const Floats &values) {
    return static_cast<std::size_t>(
        std::count_if(values.begin(), values.end(), [](double one) { return !std::isfinite(one); }));
}

std::string range_of(const Places &values) {
    const auto [least, most] = std::minmax_element(values.begin(), values.end());
    return line(*least, "..", *most);
}

bool within(const Places &values, std::int64_t least, std::int64_t end) {
    return std::all_of(values.begin(), values.end(), [&](auto one) { return one >= least && one < end; });
}

// Of a two-dimensional tensor: one image's line
Places line_of(const Places &values, std::size_t image, std::size_t width) {
    const auto first = values.begin() + static_cast<std::ptrdiff_t>(image * width);
    return {first, first + static_cast<std::ptrdiff_t>(width)};
}

bool ascend(const Places &indices, std::size_t images, std::size_t keep) {
    for (std::size_t image = 0; image < images; ++image)
        for (std::size_t at = 1; at < keep; ++at)
            if (indices[image * keep + at] <= indices[image * keep + at - 1]) return false;
    return true;
}

// Of scores that were computed: those that are kept are the highest.
bool highest_kept(const Floats &scores, const Mask &kept, std::size_t images, std::size_t patches) {
    for (std::size_t image = 0; image < images; ++image) {
        double least = INFINITE, most = -INFINITE;
        for (std::size_t at = image * patches; at < (image + 1) * patches; ++at)
            if (kept[at]) least = lower(least, scores[at]);
            else most = higher(most, scores[at]);
        if (most > least) return false;
    }
    return true;
}

// Shapes and dtypes, and numbers that are none.
std::vector<std::string> kinds(const Tensors &reference, const Tensors &got, const std::string &dtype) {
    std::vector<std::string> found;
    for (const auto &[name, like] : reference) {
        const View *value = got.find(name);
        if (value == nullptr) {
            found.push_back(name + " is missing");
            continue;
        }
        const bool exact = whole(like.dtype) || name.substr(0, name.find('.')) == "scores";  // whatever the precision of the rest
        const std::string kind = name == "tokens" ? dtype : name_of(exact ? like.dtype : value->dtype);
        if (value->shape != like.shape || name_of(value->dtype) != kind) {
            found.push_back(line(name, " must be ", kind, " ", shown(like.shape), ", got ", name_of(value->dtype), " ",
                                 shown(value->shape)));
        } else if (floating(value->dtype) && name != "scores") {
            if (const std::size_t count = not_finite(floats(*value)))
                found.push_back(line(name, " hold ", count, " values that are not finite"));
        }
    }
    return found;
}

// Scores large enough to tell.
std::vector<float> telling(const View &given, bool small) {
    std::vector<float> scores, found;
    float most = 0;
    for (const double one : floats(given)) {
        const auto score = static_cast<float>(one);
        if (!std::isfinite(score) || std::abs(score) >= 2) continue;
        scores.push_back(score), most = std::max(most, std::abs(score));
    }
    const float least = small ? 1e-2F : 1e-2F * most;
    std::copy_if(scores.begin(), scores.end(), std::back_inserter(found),
                 [&](float score) { return std::abs(score) > least; });
    return found;
}

bool through_half(const std::vector<float> &scores, float tolerance) {
    return scores.size() >= TELLING && std::all_of(scores.begin(), scores.end(), [&](float score) {
        return std::abs(float_of(half_of(score)) - score) <= tolerance * std::abs(score);
    });
}

}  // namespace

std::vector<std::string> not_finite(const Tensors &reference, const Tensors &quantities, bool some) {
    std::vector<std::string> found;
    for (const Tensors *side : {&reference, &quantities}) {
        for (const auto &[name, value] : *side) {
            Floats numbers = floats(value);
            if (name == "scores" && some) {
                const Mask kept = kept_of(reference.at("scores"), reference.at("indices"));
                for (std::size_t at = 0; at < numbers.size() && at < kept.size(); ++at)
                    if (numbers[at] == -INFINITE && !kept[at]) numbers[at] = 0;
            }
            if (const std::size_t count = not_finite(numbers))
                found.push_back(line("the reference's ", name, " hold ", count,
                                     " values that are not finite; export the bundle again"));
        }
    }
    return found;
}

std::vector<std::string> defects_of(const Tensors &reference, const Tensors &got, const std::string &dtype,
                                    const Json &rule) {
    const std::string name_of_rule = text(rule, "name");
    const Json &steps = steps_of(rule);
    const bool gains = name_of_rule == "greedy";
    std::vector<std::string> found = kinds(reference, got, dtype);
    if (!found.empty()) return found;
    const View &given = got.at("indices"), &scored = got.at("scores");
    if (given.shape.size() != 2 || scored.shape.size() != 2 || given.shape[0] != scored.shape[0])
        throw misfit("indices and scores must be [B, K] and [B, N], got ", shown(given.shape), " and ",
                     shown(scored.shape));
    const Places indices = places(given);
    const Floats scores = floats(scored);
    const std::size_t images = length(given);
    const std::int64_t patches = scored.shape[1], keep = given.shape[1];
    const auto width = static_cast<std::size_t>(patches), kept_width = static_cast<std::size_t>(keep);
    if (!within(indices, 0, patches))
        return {line("indices must lie in 0..", patches - 1, ", got ", range_of(indices))};
    if (!ascend(indices, images, kept_width)) return {"indices must ascend strictly; they repeat or run backwards"};
    const struct { const char *name; std::int64_t least, end; } NAMED[] = {{"origin", -1, keep}, {"order", 0, patches}};
    for (const auto &[name, least, end] : NAMED) {
        const View *value = got.find(name);
        if (value == nullptr) continue;
        const Places named = places(*value);
        if (named.empty()) throw misfit("zero-size array to reduction operation minimum which has no identity");
        if (!within(named, least, end))
            return {line(name, " must lie in ", least, "..", end - 1, ", got ", range_of(named))};
    }
    if (const View *picks = got.find("picks")) {
        if (picks->shape.size() < 2) throw misfit("picks must be [B, K], got ", shown(picks->shape));
        bool same = picks->shape == given.shape;
        const Places every = places(*picks);
        for (std::size_t image = 0; same && image < images; ++image)
            same = sorted(line_of(every, image, kept_width)) == line_of(indices, image, kept_width);
        if (!same) found.push_back("picks must hold the kept patches, each once");
    }
    for (std::size_t image = 0; !steps.empty() && image < images; ++image) {
        const Image one = image_of(got, image, images);
        Defects astray_here = astray(one.tensors, steps, gains);
        for (auto &defect : astray_here)
            if (images > 1) defect = line("image ", image, ": ", defect);
        if (!astray_here.empty()) return astray_here;
    }
    const Mask kept = kept_of(scored, given);
    const auto is_number = [&](double score) {
        return std::isfinite(score) || (!steps.empty() && score == -INFINITE);
    };
    if (gains) {
        std::size_t wrong = 0;
        for (std::size_t at = 0; at < scores.size(); ++at) {
            const bool finite = std::isfinite(scores[at]), here = kept[at] != 0;
            wrong += (finite != here) + (scores[at] != -INFINITE && !finite && !here);
        }
        if (wrong) found.push_back(line("scores must be finite at the kept patches and -inf elsewhere; ", wrong,
                                        " are not"));
    } else if (!std::all_of(scores.begin(), scores.end(), is_number)) {
        found.push_back(line("scores hold ", not_finite(scores), " values that are not finite"));
    } else if (name_of_rule != "fixed" && keep < patches && !highest_kept(scores, kept, images, width)) {
        found.push_back("the kept patches must be those of the highest scores; they are not");
    }
    return found;
}

bool rounded(const View &reference, const View &got, bool small) {
    return through_half(telling(got, small), 0) && !through_half(telling(reference, small), ROUNDING);
}

}  // namespace edgeprune::parity
