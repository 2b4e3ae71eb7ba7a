# frozen_string_literal: true

# The Rails application of the gem's tests, with what turbo-rails would add (which Debian does not have): views sign the
# names of their streams with a key made out of secret_key_base.

require_relative "../../clients/ruby/test/application"
require "action_view"

module SignedStreams
  SALT = "turbo/signed_stream_verifier_key"
  KEYS = {
    # As this Rails does (6.1), and later ones with load_defaults before 7.0.
    "sha1" => Rails.application.key_generator.generate_key(SALT),
    "sha256" => OpenSSL::PKCS5.pbkdf2_hmac(Rails.application.secret_key_base, SALT, 1000, 64, "SHA256"),
  }.freeze

  def turbo_stream_from(*streamables)
    verifier = ActiveSupport::MessageVerifier.new(KEYS.fetch(@digest), digest: "SHA256", serializer: JSON)
    content_tag "turbo-cable-stream-source", nil, channel: "Turbo::StreamsChannel",
                "signed-stream-name": verifier.generate(streamables.map(&:to_param).join(":"))
  end
end

ActionView::Base.include SignedStreams

def render(template, digest)
  lookup_context = ActionView::LookupContext.new([])
  ActionView::Base.with_empty_template_cache.new(lookup_context, { digest: digest }, nil).render(inline: template)
end
