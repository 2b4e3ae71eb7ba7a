# frozen_string_literal: true

# The Rails application of the gem's tests, with what turbo-rails would add (which Debian does not have): views sign the
# names of their streams with a key made out of secret_key_base.

require_relative "../../clients/ruby/test/application"
require "action_view"

module Turbo
  module StreamsChannel
    SALT = "turbo/signed_stream_verifier_key"
    KEYS = {
      # As this Rails does (6.1), and later ones with load_defaults before 7.0.
      "sha1" => Rails.application.key_generator.generate_key(SALT),
      "sha256" => OpenSSL::PKCS5.pbkdf2_hmac(Rails.application.secret_key_base, SALT, 1000, 64, "SHA256"),
    }.freeze

    def self.signed_stream_name(streamables, digest = "sha256")
      verifier = ActiveSupport::MessageVerifier.new(KEYS.fetch(digest), digest: "SHA256", serializer: JSON)
      verifier.generate(Array(streamables).map(&:to_param).join(":"))
    end
  end

  module StreamsHelper
    def turbo_stream_from(*streamables)
      content_tag "turbo-cable-stream-source", nil, channel: "Turbo::StreamsChannel",
                  "signed-stream-name": StreamsChannel.signed_stream_name(streamables, @digest)
    end
  end
end

ActionView::Base.include Turbo::StreamsHelper

def render(template, digest = "sha256")
  lookup_context = ActionView::LookupContext.new([])
  ActionView::Base.with_empty_template_cache.new(lookup_context, { digest: digest }, nil).render(inline: template)
end
