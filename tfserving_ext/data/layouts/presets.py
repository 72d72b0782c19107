"""The layouts of well-known public data."""

from tfserving_ext.data.layouts.layout import Layout

PRESETS = {
    # grouplens.org: ratings.csv of ml-latest, ml-20m, ml-25m and ml-32m.
    "movielens": Layout("userId", "movieId", time="timestamp", rating="rating", time_unit="s", file="ratings.csv"),
    # Kaggle's "Retailrocket recommender system dataset".
    "retailrocket": Layout(
        "visitorid",
        "itemid",
        event="event",
        time="timestamp",
        events=(("view", "pv"), ("addtocart", "cart"), ("transaction", "buy")),
        time_unit="ms",
        file="events.csv",
    ),
    # The RecSys Challenge 2015: a session is a user. Its category is 0, S, a number, or a brand.
    "yoochoose": Layout("1", "3", category="4", time="2", file="yoochoose-clicks.dat"),
    # IJCAI-15's repeat buyers: user_log_format1.csv. Times are month and day.
    "tmall": Layout(
        "user_id",
        "item_id",
        category="cat_id",
        event="action_type",
        time="time_stamp",
        events=(("0", "pv"), ("1", "cart"), ("2", "buy"), ("3", "fav")),
        time_unit="mmdd",
        file="user_log_format1.csv",
    ),
    # Tianchi's mobile recommendation.
    "tianchi": Layout(
        "user_id",
        "item_id",
        category="item_category",
        event="behavior_type",
        time="time",
        events=(("1", "pv"), ("2", "fav"), ("3", "cart"), ("4", "buy")),
        file="tianchi_mobile_recommend_train_user.csv",
    ),
    # Taobao's display advertising: behavior_log.csv has no items, so that the brand takes their place.
    "taobao-ad": Layout(
        "user",
        "brand",
        category="cate",
        event="btag",
        time="time_stamp",
        events=(("pv", "pv"), ("cart", "cart"), ("fav", "fav"), ("buy", "buy")),
        time_unit="s",
        file="behavior_log.csv",
    ),
    # Amazon reviews of 2014, ratings only: user, item, rating, time, without a header.
    "amazon": Layout("1", "2", rating="3", time="4", time_unit="s"),
    # Amazon reviews of 2023, as JSON lines.
    "amazon-2023": Layout("user_id", "asin", rating="rating", time="timestamp", time_unit="ms"),
    # SNAP's Gowalla: user, time, latitude, longitude, place.
    "gowalla": Layout("1", "5", time="2", separator="\t", file="loc-gowalla_totalCheckins.txt"),
    # RecBole's atomic files.
    "recbole": Layout(
        "user_id:token", "item_id:token", time="timestamp:float", time_unit="s", separator="\t", file=".inter"
    ),
    # S3-Rec's and SASRec's text: a user and its items on each line.
    "s3rec": Layout("1", "2", separator=" ", history=True, file=".txt"),
}
